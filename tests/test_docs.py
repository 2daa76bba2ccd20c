"""What the pages say: how other libraries' losses map to ours, page by page, and that the pages build."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import rarepixel as rp
from support import PROJECT

PAGES = PROJECT / "notebooks" / "docs"
CLASSES = 5
WEIGHT = torch.tensor([1.0, 5.0, 20.0, 20.0, 20.0])
Loss = Callable[[torch.Tensor], torch.Tensor]


def batch(absent: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of every class, or of all but one."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, CLASSES, 16, 16, generator=generator)
    target = torch.randint(CLASSES, (3, 16, 16), generator=generator)
    if absent is not None:
        target[target == absent] = 0
    return logits, target


def with_ignored(target: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The labels with some ignored (255), and the share of pixels that is left."""
    target = target.clone()
    target[:, :5] = 255
    return target, (target != 255).double().mean().item()


def same(got: torch.Tensor, expected: torch.Tensor | float) -> None:
    torch.testing.assert_close(got, torch.as_tensor(expected, dtype=got.dtype), rtol=1e-5, atol=1e-7)


def alike(logits: torch.Tensor, ours: Loss, theirs: Loss) -> None:
    """Two functions of the logits: value and gradient, in float64."""
    results = []
    for loss in (ours, theirs):
        leaf = logits.double().requires_grad_()
        value = loss(leaf)
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    (got, got_gradient), (expected, gradient) = results
    same(got, expected)
    torch.testing.assert_close(got_gradient, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


def different(got: torch.Tensor, other: torch.Tensor) -> None:
    assert abs(got.item() / other.item() - 1) > 1e-2


class TestMonai:
    """MONAI 1.6."""

    @pytest.fixture
    def losses(self):
        pytest.importorskip("monai", minversion="1.6")
        import monai.losses

        return monai.losses

    def test_focal_divides_by_pixels_times_classes(self, losses) -> None:
        logits, target = batch()
        theirs = losses.FocalLoss(to_onehot_y=True, use_softmax=True, weight=WEIGHT)(logits, target[:, None])
        same(rp.focal_loss(logits, target, alpha=WEIGHT), theirs * CLASSES)

    def test_focal_sum_is_a_mean_over_space(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(to_onehot_y=True, use_softmax=True, weight=WEIGHT, reduction="sum")
        alike(
            logits,
            lambda x: rp.focal_loss(x, target, alpha=WEIGHT, reduction="sum"),
            lambda x: loss(x, target[:, None]) * target[0].numel(),
        )
        target[0, :5] = 255
        loss.ignore_index = 255
        alike(
            logits,
            lambda x: sum(rp.focal_loss(x[n], target[n], WEIGHT, ignore_index=255) for n in ([0], [1], [2])),
            lambda x: loss(x, target[:, None]),
        )

    def test_focal_alpha_is_one_number(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(to_onehot_y=True, use_softmax=True, alpha=0.3)
        alike(
            logits,
            lambda x: rp.focal_loss(x, target, alpha=[0.7, 0.3, 0.3, 0.3, 0.3]),
            lambda x: loss(x, target[:, None]) * CLASSES,
        )

    def test_focal_without_background_has_a_softmax_without_it(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(to_onehot_y=True, use_softmax=True, include_background=False, weight=WEIGHT[1:])
        foreground = torch.where(target > 0, target - 1, -100)
        share = (target > 0).double().mean()
        alike(
            logits,
            lambda x: rp.focal_loss(x[:, 1:], foreground, alpha=WEIGHT[1:]) * share / (CLASSES - 1),
            lambda x: loss(x, target[:, None]),
        )

    def test_focal_without_use_softmax_is_another_loss(self, losses) -> None:
        logits, target = batch()
        theirs = losses.FocalLoss(to_onehot_y=True)(logits, target[:, None])
        different(rp.focal_loss(logits, target), theirs)
        different(rp.focal_loss(logits, target), theirs * CLASSES)

    @pytest.mark.parametrize("over_batch", [True, False])
    def test_dice(self, losses, over_batch: bool) -> None:
        logits, target = batch(absent=2)
        theirs = losses.DiceLoss(to_onehot_y=True, softmax=True, batch=over_batch)(logits, target[:, None])
        same(rp.dice_loss(logits, target, smooth=1e-5, average="macro", per_sample=not over_batch), theirs)

    def test_dice_without_background(self, losses) -> None:
        logits, target = batch()
        options = {"to_onehot_y": True, "softmax": True, "batch": True, "include_background": False}
        theirs = losses.DiceLoss(**options)(logits, target[:, None])
        same(rp.dice_loss(logits, target, smooth=1e-5, average="macro", include_background=False), theirs)

    def test_dice_weights_are_not_normalised(self, losses) -> None:
        logits, target = batch()
        theirs = losses.DiceLoss(to_onehot_y=True, softmax=True, batch=True, weight=WEIGHT)(logits, target[:, None])
        ours = rp.dice_loss(logits, target, smooth=1e-5, average="macro", weight=WEIGHT)
        same(ours, theirs * CLASSES / WEIGHT.sum())

    def test_dice_weights_without_background(self, losses) -> None:
        logits, target = batch()
        options = {"to_onehot_y": True, "softmax": True, "batch": True, "include_background": False}
        ours = {"average": "macro", "smooth": 1e-5, "include_background": False, "weight": WEIGHT}
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, **ours) * WEIGHT[1:].sum() / (CLASSES - 1),
            lambda x: losses.DiceLoss(**options, weight=WEIGHT[1:])(x, target[:, None]),
        )

    @pytest.mark.parametrize("options", [{}, {"include_background": False}])
    def test_tversky_is_by_sample_by_default(self, losses, options: dict[str, bool]) -> None:
        logits, target = batch(absent=2)
        loss = losses.TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3, beta=0.7, **options)
        alike(
            logits,
            lambda x: rp.tversky_loss(x, target, 0.3, 0.7, smooth=1e-5, per_sample=True, **options),
            lambda x: loss(x, target[:, None]),
        )

    def test_tversky(self, losses) -> None:
        logits, target = batch(absent=2)
        options = {"to_onehot_y": True, "softmax": True, "batch": True}
        theirs = losses.TverskyLoss(**options, alpha=0.3, beta=0.7)(logits, target[:, None])
        same(rp.tversky_loss(logits, target, 0.3, 0.7, smooth=1e-5), theirs)
        theirs = losses.DiceLoss(**options, jaccard=True)(logits, target[:, None])
        same(rp.tversky_loss(logits, target, 1.0, 1.0, smooth=0.5e-5), theirs)

    def test_dice_and_cross_entropy(self, losses) -> None:
        logits, target = batch()
        theirs = losses.DiceCELoss(to_onehot_y=True, softmax=True, batch=True)(logits, target[:, None])
        same(rp.dice_loss(logits, target, smooth=1e-5, average="macro") + rp.cross_entropy(logits, target), theirs)

    @pytest.mark.parametrize("weight", [None, WEIGHT])
    @pytest.mark.parametrize("over_batch", [True, False])
    def test_dice_and_cross_entropy_by_sample_and_with_weights(
        self, losses, over_batch: bool, weight: torch.Tensor | None
    ) -> None:
        logits, target = batch(absent=2)
        default = {"batch": True} if over_batch else {}
        loss = losses.DiceCELoss(to_onehot_y=True, softmax=True, weight=weight, **default)
        options = {"smooth": 1e-5, "average": "macro", "per_sample": not over_batch, "weight": weight}
        factor = 1.0 if weight is None else weight.sum().item() / CLASSES
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, **options) * factor + rp.cross_entropy(x, target, weight=weight),
            # Its cross entropy takes only weights of the dtype of the logits.
            lambda x: loss.double()(x, target[:, None]),
        )

    def test_focal_with_ignore_index_divides_by_valid_pixels(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(to_onehot_y=True, use_softmax=True, weight=WEIGHT, ignore_index=255)
        for labels in (target, with_ignored(target)[0]):
            same(rp.focal_loss(logits, labels, alpha=WEIGHT, ignore_index=255), loss(logits, labels[:, None]))

    def test_dice_and_tversky_ignore_alike(self, losses) -> None:
        logits, target = batch()
        target, _ = with_ignored(target)
        options = {"to_onehot_y": True, "softmax": True, "batch": True, "ignore_index": 255}
        theirs = losses.DiceLoss(**options)(logits, target[:, None])
        same(rp.dice_loss(logits, target, smooth=1e-5, average="macro", ignore_index=255), theirs)
        theirs = losses.TverskyLoss(**options, alpha=0.3, beta=0.7)(logits, target[:, None])
        same(rp.tversky_loss(logits, target, 0.3, 0.7, smooth=1e-5, ignore_index=255), theirs)

    def test_dice_focal_has_a_sigmoid_for_each_class(self, losses) -> None:
        logits, target = batch()
        options = {"to_onehot_y": True, "softmax": True, "batch": True}
        theirs = losses.DiceFocalLoss(**options)(logits, target[:, None])
        dice = losses.DiceLoss(**options)(logits, target[:, None])
        same(theirs - dice, losses.FocalLoss(to_onehot_y=True, use_softmax=False)(logits, target[:, None]))


class TestSegmentationModels:
    """segmentation-models-pytorch 0.6."""

    @pytest.fixture
    def losses(self):
        pytest.importorskip("segmentation_models_pytorch", minversion="0.6")
        import segmentation_models_pytorch

        return segmentation_models_pytorch.losses

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_cross_entropy_counts_ignored_pixels(self, losses, smoothing: float) -> None:
        logits, target = batch()
        loss = losses.SoftCrossEntropyLoss(smooth_factor=smoothing, ignore_index=255)
        same(rp.cross_entropy(logits, target, label_smoothing=smoothing), loss(logits, target))
        target, share = with_ignored(target)
        ours = rp.cross_entropy(logits, target, ignore_index=255, label_smoothing=smoothing)
        same(ours, loss(logits, target.clone()) / share)

    def test_focal_has_a_sigmoid_for_each_class(self, losses) -> None:
        logits, target = batch()
        one_hot = F.one_hot(target, CLASSES).movedim(-1, 1).float()
        ce = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
        theirs = losses.FocalLoss("multiclass")(logits, target)
        same(theirs, ((1 - torch.exp(-ce)) ** 2 * ce).mean())
        different(rp.focal_loss(logits, target), theirs)

    def test_dice(self, losses) -> None:
        logits, target = batch()
        same(rp.dice_loss(logits, target, smooth=0.0, average="macro"), losses.DiceLoss("multiclass")(logits, target))

    def test_dice_counts_an_absent_class_as_perfect(self, losses) -> None:
        logits, target = batch(absent=2)
        theirs = losses.DiceLoss("multiclass")(logits, target)
        ours = rp.dice_loss(logits, target, smooth=0.0, average="macro", absent="skip")
        same(ours, theirs * CLASSES / (CLASSES - 1))

    def test_dice_ignores_alike(self, losses) -> None:
        logits, target = batch()
        target, _ = with_ignored(target)
        theirs = losses.DiceLoss("multiclass", ignore_index=255)(logits, target)
        same(rp.dice_loss(logits, target, smooth=0.0, average="macro", ignore_index=255), theirs)

    def test_tversky(self, losses) -> None:
        logits, target = batch()
        theirs = losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7)(logits, target)
        same(rp.tversky_loss(logits, target, 0.3, 0.7, smooth=0.0), theirs)
        theirs = losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=1.5)(logits, target)
        same(rp.tversky_loss(logits, target, 0.3, 0.7, smooth=0.0) ** 1.5, theirs)

    def test_smooth_of_dice_is_half_of_ours(self, losses) -> None:
        logits, target = batch()
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, smooth=2 * 30.0, average="macro"),
            lambda x: losses.DiceLoss("multiclass", smooth=30.0)(x, target),
        )
        logits, gaps = batch(absent=2)
        share = (CLASSES - 1) / CLASSES
        alike(
            logits,
            lambda x: rp.dice_loss(x, gaps, smooth=2 * 30.0, average="macro", absent="skip") * share,
            lambda x: losses.DiceLoss("multiclass", smooth=30.0)(x, gaps),
        )

    def test_smooth_of_tversky_and_jaccard_is_ours(self, losses) -> None:
        logits, target = batch()
        tversky = losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, smooth=30.0)
        alike(
            logits,
            lambda x: rp.tversky_loss(x, target, 0.3, 0.7, smooth=30.0),
            lambda x: tversky(x, target),
        )
        for smooth in (0.0, 30.0):
            jaccard = losses.JaccardLoss("multiclass", smooth=smooth)
            alike(
                logits,
                lambda x, smooth=smooth: rp.tversky_loss(x, target, 1.0, 1.0, smooth=smooth),
                lambda x, jaccard=jaccard: jaccard(x, target),
            )

    def test_tversky_and_jaccard_count_an_absent_class_as_perfect(self, losses) -> None:
        logits, target = batch(absent=2)
        share = (CLASSES - 1) / CLASSES
        for loss, alpha, beta, gamma in (
            (losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7), 0.3, 0.7, 1.0),
            (losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=1.5), 0.3, 0.7, 1.5),
            (losses.JaccardLoss("multiclass"), 1.0, 1.0, 1.0),
        ):
            ours = {"alpha": alpha, "beta": beta, "smooth": 0.0, "absent": "skip"}
            alike(
                logits,
                lambda x, ours=ours, gamma=gamma: (rp.tversky_loss(x, target, **ours) * share) ** gamma,
                lambda x, loss=loss: loss(x, target),
            )

    def test_class_weights_of_dice(self, losses) -> None:
        loss = losses.DiceLoss("multiclass", class_weights=WEIGHT.tolist())
        logits, target = batch()
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, smooth=0.0, average="macro", weight=WEIGHT),
            lambda x: loss(x, target),
        )
        logits, gaps = batch(absent=2)
        share = 1 - WEIGHT[2] / WEIGHT.sum()
        alike(
            logits,
            lambda x: rp.dice_loss(x, gaps, smooth=0.0, average="macro", weight=WEIGHT, absent="skip") * share,
            lambda x: loss(x, gaps),
        )

    def test_classes_of_dice_without_background(self, losses) -> None:
        logits, target = batch()
        loss = losses.DiceLoss("multiclass", classes=[1, 2, 3, 4])
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, smooth=0.0, average="macro", include_background=False),
            lambda x: loss(x, target),
        )

    def test_labels_of_a_byte(self, losses) -> None:
        """The README's table."""
        logits, target = batch()
        ignored, _ = with_ignored(target)
        for name in ("DiceLoss", "TverskyLoss", "JaccardLoss", "LovaszLoss", "FocalLoss"):
            loss = getattr(losses, name)("multiclass", ignore_index=255)
            same(loss(logits, ignored.to(torch.uint8)), loss(logits, ignored))
        for name in ("LovaszLoss", "FocalLoss"):
            loss = getattr(losses, name)("multiclass")
            same(loss(logits, target.to(torch.uint8)), loss(logits, target))
        refused = [getattr(losses, name)("multiclass") for name in ("DiceLoss", "TverskyLoss", "JaccardLoss")]
        for loss in (*refused, losses.SoftCrossEntropyLoss(smooth_factor=0.0)):
            with pytest.raises(RuntimeError):
                loss(logits, target.to(torch.uint8))


class TestKornia:
    """kornia 0.9."""

    @pytest.fixture
    def losses(self):
        pytest.importorskip("kornia", minversion="0.9")
        import kornia.losses

        return kornia.losses

    def test_focal_divides_by_pixels_times_classes_ignored_ones_too(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(alpha=None, reduction="mean", weight=WEIGHT, ignore_index=255)
        same(rp.focal_loss(logits, target, alpha=WEIGHT), loss(logits, target) * CLASSES)
        target, share = with_ignored(target)
        same(rp.focal_loss(logits, target, alpha=WEIGHT, ignore_index=255), loss(logits, target) * CLASSES / share)

    def test_focal_alpha_is_one_number(self, losses) -> None:
        logits, target = batch()
        theirs = losses.FocalLoss(alpha=0.3, reduction="mean")(logits, target)
        same(rp.focal_loss(logits, target, alpha=[0.7, 0.3, 0.3, 0.3, 0.3]), theirs * CLASSES)

    @pytest.mark.parametrize("weight", [None, WEIGHT])
    def test_micro_dice_is_by_sample(self, losses, weight: torch.Tensor | None) -> None:
        logits, target = batch()
        theirs = losses.DiceLoss("micro", weight=weight)(logits, target)
        same(rp.dice_loss(logits, target, smooth=0.0, per_sample=True, weight=weight), theirs)

    @pytest.mark.parametrize("weight", [None, WEIGHT])
    def test_macro_dice_is_by_sample_over_classes_that_are_there(self, losses, weight: torch.Tensor | None) -> None:
        logits, target = batch(absent=2)
        theirs = losses.DiceLoss("macro", weight=weight)(logits, target)
        options = {"smooth": 0.0, "average": "macro", "per_sample": True, "absent": "skip"}
        same(rp.dice_loss(logits, target, weight=weight, **options), theirs)

    def test_tversky_is_by_sample_over_classes_that_are_there(self, losses) -> None:
        logits, target = batch(absent=2)
        theirs = losses.TverskyLoss(alpha=0.3, beta=0.7)(logits, target)
        same(rp.tversky_loss(logits, target, 0.3, 0.7, smooth=0.0, per_sample=True, absent="skip"), theirs)

    def test_focal_sum_has_no_factor(self, losses) -> None:
        logits, target = batch()
        loss = losses.FocalLoss(alpha=None, reduction="sum", weight=WEIGHT, ignore_index=255)
        for labels in (target, with_ignored(target)[0]):
            alike(
                logits,
                lambda x, labels=labels: rp.focal_loss(x, labels, alpha=WEIGHT, ignore_index=255, reduction="sum"),
                lambda x, labels=labels: loss.to(x.dtype)(x, labels),
            )

    @pytest.mark.parametrize("eps", [1e-8, 0.0])
    def test_a_sample_without_a_valid_pixel_is_lost_in_full(self, losses, eps: float) -> None:
        logits, target = batch()
        target[0] = 255
        ours = {"smooth": 0.0, "per_sample": True, "ignore_index": 255}
        theirs = {"eps": eps, "ignore_index": 255}
        third = 1 / len(target)
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, **ours) + third,
            lambda x: losses.DiceLoss("micro", **theirs)(x, target),
        )
        alike(
            logits,
            lambda x: rp.dice_loss(x, target, average="macro", absent="skip", **ours) + third,
            lambda x: losses.DiceLoss("macro", **theirs)(x, target),
        )
        alike(
            logits,
            lambda x: rp.tversky_loss(x, target, 0.3, 0.7, absent="skip", **ours) + third,
            lambda x: losses.TverskyLoss(alpha=0.3, beta=0.7, **theirs)(x, target),
        )


class TestTorchmetrics:
    """torchmetrics 1.9."""

    @pytest.fixture
    def metrics(self):
        pytest.importorskip("torchmetrics", minversion="1.9")
        import torchmetrics.classification

        return torchmetrics.classification

    @staticmethod
    def counted(prediction: torch.Tensor, target: torch.Tensor) -> rp.metrics.ConfusionMatrix:
        matrix = rp.metrics.ConfusionMatrix(CLASSES)
        matrix.update(prediction, target)
        return matrix

    @staticmethod
    def mean(values: np.ndarray, matrix: rp.metrics.ConfusionMatrix) -> float:
        """The equivalent that the page gives."""
        return float(np.nan_to_num(values)[~np.isnan(matrix.iou())].mean())

    @pytest.fixture(params=["every class", "never predicted", "not in the target", "in neither", "always background"])
    def case(self, request) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted and true labels, some of them ignored."""
        logits, target = batch(absent=2 if request.param in ("not in the target", "in neither") else None)
        prediction = logits.argmax(1)
        if request.param in ("never predicted", "in neither"):
            prediction[prediction == 2] = 0
        if request.param == "always background":
            prediction[:] = 0
        return prediction, with_ignored(target)[0]

    def test_confusion_matrix(self, metrics, case) -> None:
        theirs = metrics.MulticlassConfusionMatrix(CLASSES, ignore_index=255)(*case)
        np.testing.assert_array_equal(self.counted(*case).matrix, theirs.numpy())

    def test_iou_and_dice(self, metrics, case) -> None:
        matrix = self.counted(*case)
        for theirs, ours in ((metrics.MulticlassJaccardIndex, matrix.iou), (metrics.MulticlassF1Score, matrix.dice)):
            assert ours("macro") == pytest.approx(theirs(CLASSES, ignore_index=255)(*case).item())
            by_class = theirs(CLASSES, ignore_index=255, average="none")(*case).numpy()
            np.testing.assert_allclose(np.nan_to_num(ours()), by_class, rtol=1e-6)

    def test_macro_precision_and_recall(self, metrics, case) -> None:
        matrix = self.counted(*case)
        for theirs, ours in (
            (metrics.MulticlassPrecision, matrix.precision),
            (metrics.MulticlassRecall, matrix.recall),
            (metrics.MulticlassAccuracy, matrix.recall),
        ):
            assert self.mean(ours(), matrix) == pytest.approx(theirs(CLASSES, ignore_index=255)(*case).item())
            by_class = theirs(CLASSES, ignore_index=255, average="none")(*case).numpy()
            np.testing.assert_allclose(np.nan_to_num(ours()), by_class, rtol=1e-6)

    def test_accuracy_is_micro(self, metrics, case) -> None:
        theirs = metrics.MulticlassAccuracy(CLASSES, average="micro", ignore_index=255)(*case)
        assert self.counted(*case).accuracy() == pytest.approx(theirs.item())

    def test_precision_of_always_background(self, metrics) -> None:
        target = torch.zeros(1000, dtype=torch.int64)
        target[:23] = torch.arange(23) % 4 + 1
        prediction = torch.zeros_like(target)
        matrix = self.counted(prediction, target)
        assert round(matrix.precision("macro"), 3) == 0.977
        assert round(metrics.MulticlassPrecision(CLASSES)(prediction, target).item(), 3) == 0.195
        assert round(self.mean(matrix.precision(), matrix), 3) == 0.195

    def test_recall_of_a_class_that_is_not_in_the_target(self, metrics) -> None:
        prediction, target = torch.arange(CLASSES), torch.tensor([0, 1, 2, 3, 3])
        assert self.counted(prediction, target).recall("macro") == pytest.approx(3.5 / 4)
        assert metrics.MulticlassRecall(CLASSES)(prediction, target).item() == pytest.approx(3.5 / 5)

    def test_nothing_counted(self, metrics) -> None:
        target = torch.full((4,), 255)
        matrix = self.counted(torch.zeros_like(target), target)
        ours = [matrix.dice, matrix.precision, matrix.recall, matrix.iou]
        assert np.isnan([matrix.accuracy(), *(metric("macro") for metric in ours)]).all()
        for name in ("F1Score", "Precision", "Recall", "Accuracy"):
            theirs = getattr(metrics, f"Multiclass{name}")(CLASSES, ignore_index=255)
            assert theirs(torch.zeros_like(target), target).item() == 0
        theirs = metrics.MulticlassJaccardIndex(CLASSES, ignore_index=255)
        assert theirs(torch.zeros_like(target), target).isnan()


class TestOwn:
    """The few lines that most projects carry; see also loss/test_course.py."""

    def test_a_plain_mean_counts_ignored_pixels(self) -> None:
        logits, target = batch()
        target, share = with_ignored(target)
        ce = F.cross_entropy(logits, target, weight=WEIGHT, reduction="none", ignore_index=255)
        theirs = ((1 - torch.exp(-ce)) ** 2 * ce).mean()
        same(rp.focal_loss(logits, target, WEIGHT, ignore_index=255, pt="weighted_ce"), theirs / share)

    def test_weights_after_the_power_are_alpha(self) -> None:
        logits, target = batch()
        p = logits.softmax(1).gather(1, target[:, None])[:, 0]
        same(rp.focal_loss(logits, target, WEIGHT), (WEIGHT[target] * (1 - p) ** 2 * -p.log()).mean())

    def test_nothing_valid_is_zero_where_torch_gives_nan(self) -> None:
        logits, target = batch()
        nothing = torch.full_like(target, 255)
        assert F.cross_entropy(logits, nothing, ignore_index=255).isnan()
        assert rp.cross_entropy(logits, nothing, ignore_index=255).item() == 0


def test_same_bits_for_any_number_of_threads() -> None:
    """Page "Numbers"."""
    logits, target = batch()
    logits = logits.repeat(1, 1, 12, 20).requires_grad_()
    target = target.repeat(1, 12, 20)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = rp.dice_focal_loss(logits, target, WEIGHT, average="macro")
            results.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_python_of_a_page_runs(page: Path) -> None:
    namespace: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)


PUBLIC = [
    (module.__name__, name)
    for module in (rp.functional, rp.numpy, rp.xbd, rp.metrics, rp.plot, rp.reference, rp)
    for name in module.__all__
    if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
]
LOSSES = [*rp.functional.__all__, "multi_scale_loss"]
# What functions of rarepixel.xbd give; their examples show it.
RECORDS = {"Feature", "Index", "Label", "Problem", "Statistics", "Tile", "TileFiles"}


def documentation(module: str, name: str) -> str:
    return inspect.getdoc(getattr(sys.modules[module], name)) or ""


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_names_have_a_docstring_with_an_example(module: str, name: str) -> None:
    """pytest runs the examples (--doctest-modules), but for those of names from Rust, which it does not find."""
    text = documentation(module, name)
    assert text, f"{module}.{name} has no docstring"
    if name not in RECORDS:
        assert ">>> " in text, f"{module}.{name} has no example"
    if inspect.isbuiltin(getattr(sys.modules[module], name)):
        test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
        assert doctest.DocTestRunner().run(test) == (0, len(test.examples))


@pytest.mark.parametrize(
    ("module", "name"), [entry for entry in PUBLIC if inspect.isclass(getattr(sys.modules[entry[0]], entry[1]))]
)
def test_public_methods_are_documented(module: str, name: str) -> None:
    members = vars(getattr(sys.modules[module], name))
    named = [member for member in members if not member.startswith("_") and inspect.isroutine(members[member])]
    missing = [member for member in named if member != "extra_repr" and not inspect.getdoc(members[member])]
    assert not missing


@pytest.mark.parametrize("name", LOSSES)
def test_losses_say_formula_shapes_errors_and_source(name: str) -> None:
    text = documentation("rarepixel", name)
    assert re.search(r"::\n\n {4}.* = |::\n\n {4}.*:  ", text), "no formula"
    for section in ("Args:\n", "Returns:\n", "Raises:\n", "Example:\n", "Source: "):
        assert f"\n{section}" in text, f"no {section}"
    arguments = text.split("Args:\n")[1].split("Returns:\n")[0]
    assert "(N, " in arguments, "no shapes"
    documented = re.findall(r"^ {4}(\w+): ", arguments, re.MULTILINE)
    of_the_module = {"upsample", "align_corners", "sync"}.difference(documented)
    assert documented == [
        argument for argument in inspect.signature(getattr(rp, name)).parameters if argument not in of_the_module
    ]


@pytest.mark.parametrize(
    ("module", "name", "loss"),
    [
        *(("rarepixel.numpy", name, name) for name in rp.numpy.__all__),
        *(("rarepixel.reference", name, name) for name in rp.reference.__all__ if name != "matched"),
        *(("rarepixel", "".join(map(str.title, name.split("_"))), name) for name in LOSSES if name.endswith("loss")),
        ("rarepixel", "CrossEntropyLoss", "cross_entropy"),
    ],
)
def test_other_forms_of_a_loss_lead_to_its_definition(module: str, name: str, loss: str) -> None:
    assert f":func:`rarepixel.{loss}`" in documentation(module, name)


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers")
    command = ["mkdocs", "build", "--strict", "-f", PROJECT / "notebooks" / "mkdocs.yml", "-d", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    reference = "".join(page.read_text() for page in (tmp_path / "api").rglob("index.html"))
    missing = [name for _, name in PUBLIC if f'.{name}"' not in reference]
    assert not missing
    assert "<blockquote>" not in reference, "a doctest outside a code block"
    assert not re.search(r":(func|class|mod|meth|data):|::</p>", reference), "markup that Markdown does not know"
