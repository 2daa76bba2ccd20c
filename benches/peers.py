"""Each library's losses in the form in which its users call them, and what they compute, in plain torch.

The libraries define focal and Dice losses differently. None is adapted to another's definition: each is checked against
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import course
import rarepixel as rp
from inputs import Loss
from rarepixel import reference

Make = Callable[[], Loss]


class Peer(NamedTuple):
    """A loss of a library: how it is made, and its definition."""

    library: str
    make: Make
    definition: Loss
    rtol: float | None = None
    """Largest relative error, where the library's sums are less exact than its type."""


# segmentation-models-pytorch adds up its Dice loss with `torch.linalg.vector_norm(ord=1)`, which sums float32 naively:
# off by 1.2e-3 at a million pixels, while in float64 it agrees with its definition to 1e-10.
SMP_DICE_RTOL = 5e-3


def ready(loss: Loss) -> Make:
    """A loss with nothing to import."""
    return lambda: loss


def _ours(loss: Loss, definition: Loss) -> Peer:
    return Peer("rarepixel", ready(loss), definition)


def compiled(loss: Loss) -> Make:
    """Through torch.compile, for fixed shapes and as one graph: its best case."""

    def make() -> Loss:
        # Past its limit of recompilations it would fall back to eager mode with no more than a warning.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # Cases that share code count together for that limit; what was compiled for the case before is done with.
        torch._dynamo.reset()
        return torch.compile(loss, dynamic=False, fullgraph=True)

    return make


def on_torch_types(loss: Loss) -> Loss:
    """What a torch user writes round a loss: int64 labels, and half-precision logits in float32, as autocast has it."""

    def call(logits: Tensor, target: Tensor) -> Tensor:
        return loss(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, target.long())

    return call


def monai(name: str, **options: Any) -> Make:
    def make() -> Loss:
        import monai.losses

        loss = getattr(monai.losses, name)(to_onehot_y=True, **options)
        return lambda logits, target: loss(logits, target.unsqueeze(1))

    return make


def smp(name: str, *arguments: Any, **options: Any) -> Make:
    def make() -> Loss:
        import segmentation_models_pytorch

        loss: Loss = getattr(segmentation_models_pytorch.losses, name)(*arguments, **options)
        return loss

    return make


def kornia(name: str, **options: Any) -> Make:
    def make() -> Loss:
        import kornia.losses

        loss: Loss = getattr(kornia.losses, name)(**options)
        return loss

    return make


def added(first: Make, second: Make) -> Make:
    """What users of a library without a combined loss write."""
    return lambda: total(first(), second())


def total(first: Loss, second: Loss) -> Loss:
    return lambda logits, target: first(logits, target) + second(logits, target)


def binary_focal(logits: Tensor, target: Tensor) -> Tensor:
    """(C,) mean focal losses of C problems of one class against the rest, each with its own sigmoid."""
    one_hot = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    return (torch.expm1(-bce) ** 2 * bce).mean((0, 2, 3))


def cross_entropy(classes: int) -> list[Peer]:
    """Weighted cross entropy. MONAI and kornia leave it to torch; segmentation-models-pytorch's takes no weights."""
    weight = course.class_weights(classes)

    def definition(logits: Tensor, target: Tensor) -> Tensor:
        return reference.cross_entropy(logits, target, weight)

    def plain(logits: Tensor, target: Tensor) -> Tensor:
        return course.cross_entropy(logits, target, weight)

    return [
        _ours(rp.CrossEntropyLoss(weight), definition),
        Peer("torch", ready(on_torch_types(plain)), definition),
        Peer("torch.compile", compiled(plain), definition),
        Peer(
            "segmentation-models-pytorch",
            smp("SoftCrossEntropyLoss", smooth_factor=0.0),
            reference.cross_entropy,  # without weights
        ),
    ]


def focal_loss(classes: int, weighted: bool) -> list[Peer]:
    """Focal loss, gamma = 2."""
    weight = course.class_weights(classes) if weighted else None
    weights = torch.ones(classes) if weight is None else weight
    # Without weights both forms of p_t are one and the same.
    ours = rp.FocalLoss(weight, pt="weighted_ce" if weighted else "softmax")

    def definition(logits: Tensor, target: Tensor) -> Tensor:
        return reference.focal_loss(logits, target, weight, pt="weighted_ce")

    def plain(logits: Tensor, target: Tensor) -> Tensor:
        return course.focal_loss(logits, target, weight)

    def mean_over_logits(logits: Tensor, target: Tensor) -> Tensor:
        # The paper's p_t; the mean divides by pixels times classes.
        return reference.focal_loss(logits, target, weight) / classes

    def one_against_the_rest(logits: Tensor, target: Tensor) -> Tensor:
        return (weights * binary_focal(logits, target)).sum() / weights.sum()

    listed = None if weight is None else weight.tolist()
    return [
        _ours(ours, definition),
        Peer("torch", ready(on_torch_types(plain)), definition),
        Peer("torch.compile", compiled(plain), definition),
        Peer("MONAI", monai("FocalLoss", use_softmax=True, gamma=2.0, weight=weight), mean_over_logits),
        Peer(
            "segmentation-models-pytorch",
            smp("FocalLoss", "multiclass", gamma=2.0, class_weights=listed),
            one_against_the_rest,
        ),
        Peer("kornia", kornia("FocalLoss", alpha=None, gamma=2.0, reduction="mean", weight=weight), mean_over_logits),
    ]


def macro_dice(logits: Tensor, target: Tensor) -> Tensor:
    return reference.dice_loss(logits, target, average="macro")


def micro_dice_by_sample(logits: Tensor, target: Tensor) -> Tensor:
    return reference.dice_loss(logits, target, per_sample=True)


def dice_loss() -> list[Peer]:
    """Dice: ours, torch and kornia over all classes at once (kornia sample by sample), the others class by class."""

    return [
        _ours(rp.DiceLoss(), reference.dice_loss),
        Peer("torch", ready(on_torch_types(course.dice_loss)), reference.dice_loss),
        Peer("torch.compile", compiled(course.dice_loss), reference.dice_loss),
        Peer("MONAI", monai("DiceLoss", softmax=True, batch=True), macro_dice),
        Peer("segmentation-models-pytorch", smp("DiceLoss", "multiclass"), macro_dice, SMP_DICE_RTOL),
        Peer("kornia", kornia("DiceLoss"), micro_dice_by_sample),
    ]


def dice_focal_loss(classes: int) -> list[Peer]:
    """Focal + Dice: one loss in rarepixel and MONAI, the sum of two elsewhere."""
    weight = course.class_weights(classes)

    def definition(logits: Tensor, target: Tensor) -> Tensor:
        return reference.dice_focal_loss(logits, target, weight, pt="weighted_ce")

    def plain(logits: Tensor, target: Tensor) -> Tensor:
        return course.dice_focal_loss(logits, target, weight)

    def monai_sum(logits: Tensor, target: Tensor) -> Tensor:
        # One against the rest in the focal part, weights in both, divided by the number of classes.
        dice = reference.dice_loss(logits, target, average="macro", weight=weight) * weight.sum()
        return ((weight * binary_focal(logits, target)).sum() + dice) / classes

    focal, dice = ({peer.library: peer for peer in peers} for peers in (focal_loss(classes, True), dice_loss()))
    sums = [
        Peer(
            library,
            added(focal[library].make, dice[library].make),
            total(focal[library].definition, dice[library].definition),
            dice[library].rtol,
        )
        for library in ("segmentation-models-pytorch", "kornia")
    ]
    return [
        _ours(rp.DiceFocalLoss(weight, pt="weighted_ce"), definition),
        Peer("torch", ready(on_torch_types(plain)), definition),
        Peer("torch.compile", compiled(plain), definition),
        Peer("MONAI", monai("DiceFocalLoss", softmax=True, batch=True, weight=weight), monai_sum),
        *sums,
    ]


def confusion_matrix(classes: int) -> list[Peer]:
    """Counts of (target, prediction) pairs from logits."""

    def ours(logits: Tensor, target: Tensor) -> Tensor:
        matrix = rp.metrics.ConfusionMatrix(classes)
        matrix.update(logits, target)
        return torch.from_numpy(matrix.matrix)

    def bincount(logits: Tensor, target: Tensor) -> Tensor:
        pairs = target.long() * classes + logits.argmax(1)
        return torch.bincount(pairs.flatten(), minlength=classes**2).view(classes, classes)

    def torchmetrics() -> Loss:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        return lambda logits, target: multiclass_confusion_matrix(logits, target, classes)

    return [
        _ours(ours, bincount),
        Peer("torch", ready(bincount), bincount),
        Peer("torchmetrics", torchmetrics, bincount),
    ]


def by_case(classes: int) -> dict[str, list[Peer]]:
    """The losses of the table."""
    return {
        "cross entropy": cross_entropy(classes),
        "focal": focal_loss(classes, weighted=True),
        "focal, no weights": focal_loss(classes, weighted=False),
        "Dice": dice_loss(),
        "focal + Dice": dice_focal_loss(classes),
    }


def options(classes: int) -> list[tuple[str, str, Peer]]:
    """(case, option, ours with the option)."""
    weight = course.class_weights(classes)

    def smoothed(logits: Tensor, target: Tensor) -> Tensor:
        return reference.cross_entropy(logits, target, weight, label_smoothing=0.1)

    def softmax_focal(logits: Tensor, target: Tensor) -> Tensor:
        return reference.focal_loss(logits, target, weight)

    def macro_both(logits: Tensor, target: Tensor) -> Tensor:
        return reference.dice_focal_loss(logits, target, weight, average="macro")

    return [
        ("cross entropy", "label_smoothing=0.1", _ours(rp.CrossEntropyLoss(weight, label_smoothing=0.1), smoothed)),
        ("focal", 'pt="softmax"', _ours(rp.FocalLoss(weight), softmax_focal)),
        ("Dice", 'average="macro"', _ours(rp.DiceLoss(average="macro"), macro_dice)),
        ("Dice", "per_sample=True", _ours(rp.DiceLoss(per_sample=True), micro_dice_by_sample)),
        ("focal + Dice", 'pt="softmax", average="macro"', _ours(rp.DiceFocalLoss(weight, average="macro"), macro_both)),
    ]


def pick(peers: Sequence[Peer], library: str) -> Peer:
    return next(peer for peer in peers if peer.library == library)
