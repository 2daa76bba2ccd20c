"""Saturated, infinite, ignored, absent, empty, wrong and huge: each with a stated answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import rarepixel as rp
from support import PRECISIONS, Precision, assert_close, gradient_of

Loss = Callable[..., torch.Tensor]
PIXEL_LOSSES = [rp.cross_entropy, rp.focal_loss]
REGION_LOSSES = [rp.dice_loss, rp.tversky_loss]
ALL = [*PIXEL_LOSSES, *REGION_LOSSES, rp.dice_focal_loss]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]


def saturated(right: bool, dtype: torch.dtype, size: float = 1e4) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.full((2, 3, 40), -size, dtype=dtype)
    logits[:, 0 if right else 1] = size
    return logits.requires_grad_(), torch.zeros(2, 40, dtype=torch.uint8)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("pt", ["softmax", "weighted_ce"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_focal_at_saturated_pixels(precision: Precision, gamma: float, pt: str) -> None:
    alpha = [2.0, 1.0, 1.0]
    logits, target = saturated(True, precision.dtype)
    loss = rp.focal_loss(logits, target, alpha, gamma, pt=pt)
    assert loss.item() == 0.0
    assert gradient_of(loss, logits).abs().max().item() == 0.0
    logits, target = saturated(False, precision.dtype)
    loss = rp.focal_loss(logits, target, alpha, gamma, pt=pt)
    # u = 1: L = alpha * 2e4, and dL/dz_y = -alpha / pixels.
    assert loss.item() == pytest.approx(2 * 2e4, rel=2**-7 if precision.dtype == torch.bfloat16 else 1e-3)
    gradient = gradient_of(loss, logits)
    assert gradient[:, 0].flatten().tolist() == pytest.approx([-2 / 80] * 80, rel=2**-8)
    assert gradient[:, 2].abs().max().item() == 0.0


@pytest.mark.parametrize("alpha", [[1.0, 1.0], [1.0, 0.75]], ids=["one", "another"])  # of weight 1, p_t is p_y
@pytest.mark.parametrize("pt", ["softmax", "weighted_ce"])
def test_focal_at_a_small_probability_has_all_digits(pt: str, alpha: list[float]) -> None:
    """k has p_t s in it: 1 - (1 - p_t) is not p_t where p_t is small, and s is large there."""
    margin = torch.arange(0.25, 60, 0.25)
    logits = torch.stack([margin, torch.zeros_like(margin)], 1).requires_grad_()
    target = torch.ones(len(margin), dtype=torch.long)
    truth_input = logits.detach().double().requires_grad_()
    got = gradient_of(rp.focal_loss(logits, target, alpha, pt=pt, reduction="sum"), logits)
    truth = gradient_of(rp.focal_loss(truth_input, target, alpha, pt=pt, reduction="sum"), truth_input)
    torch.testing.assert_close(got.double(), truth, rtol=5e-7, atol=0)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("loss_fn", ALL)
def test_logits_of_ten_thousand(loss_fn: Loss, precision: Precision) -> None:
    for right in (True, False):
        logits, target = saturated(right, precision.dtype)
        loss = loss_fn(logits, target)
        assert loss.isfinite()
        assert gradient_of(loss, logits).isfinite().all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_minus_infinity_is_probability_zero(gamma: float) -> None:
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    two = torch.tensor([[1.0, 2.0]])
    loss = rp.focal_loss(logits, torch.tensor([0]), gamma=gamma)
    assert loss.item() == pytest.approx(rp.focal_loss(two, torch.tensor([0]), gamma=gamma).item())
    assert gradient_of(loss, logits)[0, 2].item() == 0.0
    loss = rp.focal_loss(logits, torch.tensor([2]), gamma=gamma)
    assert loss.item() == math.inf
    assert gradient_of(loss, logits)[0].tolist() == pytest.approx([*two[0].softmax(0).tolist(), -1.0], rel=1e-6)


@pytest.mark.parametrize("loss_fn", PIXEL_LOSSES)
@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("where", [0, 1])
def test_infinity_and_nan_give_nan(loss_fn: Loss, value: float, where: int) -> None:
    logits = torch.zeros(1, 3, 50)
    logits[0, where, 17] = value
    losses = loss_fn(logits, torch.zeros(1, 50, dtype=torch.int64), reduction="none")
    assert losses[0, 17].isnan()
    assert losses.isnan().sum() == 1, "only the pixel itself"


@pytest.mark.parametrize("loss_fn", [*REGION_LOSSES, rp.dice_focal_loss])
def test_a_nan_logit_makes_a_region_loss_nan(loss_fn: Loss) -> None:
    logits = torch.zeros(1, 3, 50)
    logits[0, 2, 17] = math.nan
    assert loss_fn(logits, torch.zeros(1, 50, dtype=torch.int64)).isnan()


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("loss_fn", ALL)
def test_what_stands_at_an_ignored_pixel_does_not_matter(loss_fn: Loss, value: float, precision: Precision) -> None:
    torch.manual_seed(0)
    clean = torch.randn(2, 5, 7, 9, dtype=precision.dtype)
    target = torch.randint(5, (2, 7, 9))
    ignored = torch.rand(2, 7, 9) < 0.3
    target[ignored] = 255
    dirty = clean.movedim(1, -1).clone()
    dirty[ignored] = value
    dirty = dirty.movedim(-1, 1).requires_grad_()
    clean.requires_grad_()
    expected, got = (loss_fn(x, target, ignore_index=255) for x in (clean, dirty))
    assert torch.equal(expected, got)
    gradient = gradient_of(got, dirty)
    assert torch.equal(gradient, gradient_of(expected, clean))
    assert gradient.movedim(1, -1)[ignored].abs().max().item() == 0.0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss_fn", ALL)
def test_nothing_valid_gives_zero(loss_fn: Loss, reduction: str) -> None:
    options = {} if loss_fn in REGION_LOSSES else {"reduction": reduction}
    for shape in [(2, 3, 8, 8), (0, 3, 8, 8), (2, 3, 0, 8), (0, 3)]:
        logits = torch.full(shape, math.nan, requires_grad=True)
        target = torch.full((shape[0], *shape[2:]), -100)
        loss = loss_fn(logits, target, **options)
        assert loss.item() == 0.0
        gradient = gradient_of(loss, logits)
        assert gradient.shape == logits.shape
        assert not gradient.any()


def test_no_weight_on_any_pixel_gives_zero() -> None:
    logits = torch.randn(1, 2, 8, requires_grad=True)
    loss = rp.cross_entropy(logits, torch.zeros(1, 8, dtype=torch.int64), weight=[0.0, 1.0])
    assert loss.item() == 0.0
    assert not gradient_of(loss, logits).any()


def test_absent_class() -> None:
    logits = torch.zeros(1, 3, 100, dtype=torch.float64)
    target = torch.arange(100).remainder(2).unsqueeze(0)  # class 2 is absent
    third = 100 / 3
    present = 1 - 2 * (50 / 3) / (third + 50)
    counted = rp.dice_loss(logits, target, smooth=0.0, average="macro")
    assert counted.item() == pytest.approx((2 * present + 1) / 3)
    skipped = rp.dice_loss(logits, target, smooth=0.0, average="macro", absent="skip")
    assert skipped.item() == pytest.approx(present)


@pytest.mark.parametrize("loss_fn", REGION_LOSSES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_an_absent_class_that_is_almost_impossible(loss_fn: Loss, precision: Precision) -> None:
    """Without smooth dL/dI is -2 / P there: more than a float32 holds, times a target of 0."""
    logits = torch.zeros(1, 3, 4, dtype=precision.dtype)
    logits[:, 2] = -95.0 if precision.dtype != torch.float64 else -740.0
    logits.requires_grad_()
    target = F.one_hot(torch.zeros(1, 4, dtype=torch.int64), 3).movedim(-1, 1)
    loss = loss_fn(logits, target, smooth=0.0, average="macro")
    assert loss.item() == pytest.approx((1 / 3 + 1 + 1) / 3, rel=1e-2)
    gradient = gradient_of(loss, logits)
    assert gradient.isfinite().all()
    assert gradient[:, 2].abs().max().item() < 1e-40


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (1, 5, 40, 900), (4, 300)], ids=str)
def test_a_label_out_of_range_is_named_with_its_position(loss_fn: Loss, dtype: torch.dtype, shape: Any) -> None:
    classes = min(shape[1], 200)
    logits = torch.zeros((shape[0], classes, *shape[2:]), requires_grad=True)
    target = torch.zeros((shape[0], *shape[2:]), dtype=dtype)
    position = tuple(size - 1 for size in target.shape)
    target[position] = classes
    message = (
        rf"target: got label {classes} at position \[{', '.join(map(str, position))}\], expected 0 to {classes - 1}"
    )
    with pytest.raises(ValueError, match=message):
        loss_fn(logits, target)
    if dtype != torch.uint8:
        target[position] = -1
        with pytest.raises(ValueError, match="got label -1 at position"):
            loss_fn(logits, target)


IMAGE = torch.zeros(2, 3, 4, 4)
MASK = torch.zeros(2, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rp.cross_entropy(IMAGE.numpy(), MASK), TypeError, r"input: got ndarray, expected a torch.Tensor"),
        (lambda: rp.cross_entropy(IMAGE, [0]), TypeError, r"target: got list, expected a torch.Tensor"),
        (lambda: rp.cross_entropy(IMAGE.long(), MASK), TypeError, r"input: got int64, expected float32, float64"),
        (
            lambda: rp.cross_entropy(IMAGE.to(torch.complex64), MASK),
            TypeError,
            r"input: got complex64, expected float32",
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK.float()),
            TypeError,
            r"target: got float32, expected uint8, int16, int32",
        ),
        (lambda: rp.cross_entropy(IMAGE, MASK.bool()), TypeError, r"target: got bool, expected uint8, int16, int32"),
        (
            lambda: rp.cross_entropy(IMAGE, MASK[:1]),
            ValueError,
            r"target: got shape \[1, 4, 4\], expected shape \[2, 4, 4\]",
        ),
        (lambda: rp.cross_entropy(IMAGE, MASK[:, :2]), ValueError, r"target: got shape \[2, 2, 4\], expected shape"),
        (lambda: rp.cross_entropy(IMAGE[0, 0, 0], MASK[0, 0]), ValueError, r"input: got shape \[4\], expected \(N, C"),
        (lambda: rp.cross_entropy(IMAGE[:, :0], MASK), ValueError, r"input: got 0 classes, expected at least 1 class"),
        (
            lambda: rp.cross_entropy(IMAGE[..., None, None], MASK[..., None, None]),
            ValueError,
            r"input: got shape \[2, 3, 4, 4, 1, 1\], expected \(N, C, \*spatial\)",
        ),
        (
            lambda: rp.focal_loss(IMAGE, F.one_hot(MASK, 3).movedim(-1, 1)),
            ValueError,
            r"target: got shape \[2, 3, 4, 4\]",
        ),
        (
            lambda: rp.dice_loss(IMAGE, torch.zeros(2, 4, 4, 4)),
            ValueError,
            r"target: got shape \[2, 4, 4, 4\], expected shape",
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK, weight=[1.0]),
            ValueError,
            r"weight: got 1 values, expected 3 values, one",
        ),
        (
            lambda: rp.focal_loss(IMAGE, MASK, alpha=[1.0] * 5),
            ValueError,
            r"alpha: got 5 values, expected 3 values, one",
        ),
        (lambda: rp.dice_loss(IMAGE, MASK, weight=[1.0]), ValueError, r"weight: got 1 values, expected 3 values, one"),
        (lambda: rp.dice_focal_loss(IMAGE, MASK, dice_weight=[1.0]), ValueError, r"dice_weight: got 1 values"),
        (lambda: rp.focal_loss(IMAGE, MASK, alpha=0.25), ValueError, r"alpha: got shape \[\], expected \(3,\)"),
        (
            lambda: rp.focal_loss(IMAGE, MASK, alpha="x"),
            TypeError,
            r"alpha: got 'x', expected one number for each class",
        ),
        (
            lambda: rp.FocalLoss(alpha=["a", "b"]),
            TypeError,
            r"alpha: got \['a', 'b'\], expected one number for each class",
        ),
        (
            lambda: rp.FocalLoss(alpha=0.25),
            ValueError,
            r"alpha: got shape \[\], expected \(C,\), one value for each class",
        ),
        (lambda: rp.DiceLoss(weight=torch.ones(1, 3)), ValueError, r"weight: got shape \[1, 3\], expected \(C,\), one"),
        (
            lambda: rp.DiceFocalLoss(dice_weight=[10**400, 1]),
            TypeError,
            r"dice_weight: got \[1000.*, expected one number for each class",
        ),
        (
            lambda: rp.TverskyLoss(weight=torch.ones(3, dtype=torch.complex64)),
            TypeError,
            r"weight: got torch.complex64, expected one number for each class",
        ),
        (
            lambda: rp.CrossEntropyLoss(weight=torch.ones(3, requires_grad=True)),
            ValueError,
            r"weight: got a tensor that requires grad, expected constants",
        ),
        (
            lambda: rp.focal_loss(IMAGE, MASK, alpha=[1.0, math.nan, 1.0]),
            ValueError,
            r"alpha: got NaN for class 1, expected finite numbers of at least 0",
        ),
        (lambda: rp.cross_entropy(IMAGE, MASK, weight=[1.0, 1.0, -1.0]), ValueError, r"weight: got -1 for class 2"),
        (
            lambda: rp.cross_entropy(IMAGE, MASK, weight=torch.ones(3, requires_grad=True)),
            ValueError,
            r"weight: got a tensor that requires grad, expected constants",
        ),
        (
            lambda: rp.dice_loss(IMAGE, torch.zeros(2, 3, 4, 4, requires_grad=True)),
            ValueError,
            r"target: got a tensor that requires grad, expected constants",
        ),
        (
            lambda: rp.focal_loss(IMAGE, MASK, gamma=-1),
            ValueError,
            r"gamma: got -1, expected a finite number of at least 0",
        ),
        (lambda: rp.focal_loss(IMAGE, MASK, gamma=math.inf), ValueError, r"gamma: got inf, expected a finite number"),
        (
            lambda: rp.focal_loss(IMAGE, MASK, pt="sigmoid"),
            ValueError,
            r'pt: got "sigmoid", expected "softmax" or "weighted_ce"',
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK, label_smoothing=1.5),
            ValueError,
            r"label_smoothing: got 1.5, expected a number",
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK, reduction="avg"),
            ValueError,
            r'reduction: got "avg", expected "mean" or "sum"',
        ),
        (
            lambda: rp.dice_loss(IMAGE, MASK, smooth=-1.0),
            ValueError,
            r"smooth: got -1, expected a finite number of at least 0",
        ),
        (
            lambda: rp.dice_loss(IMAGE, MASK, average="weighted"),
            ValueError,
            r'average: got "weighted", expected "micro" or "macro"',
        ),
        (
            lambda: rp.tversky_loss(IMAGE, MASK, alpha=-0.5),
            ValueError,
            r"alpha: got -0.5, expected a finite number of at least 0",
        ),
        (
            lambda: rp.tversky_loss(IMAGE, MASK, beta=math.inf),
            ValueError,
            r"beta: got inf, expected a finite number of at least 0",
        ),
        (lambda: rp.dice_loss(IMAGE, MASK, absent="nan"), ValueError, r'absent: got "nan", expected "count" or "skip"'),
        (
            lambda: rp.dice_focal_loss(IMAGE, MASK, reduction="none"),
            ValueError,
            r'reduction: got "none", expected "mean" or "sum"',
        ),
        (
            lambda: rp.dice_focal_loss(IMAGE, MASK, lambda_dice=math.nan),
            ValueError,
            r"lambda_dice: got NaN, expected a finite",
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK.to("meta")),
            ValueError,
            r"target: got a tensor on meta, expected cpu, where input is",
        ),
        (
            lambda: rp.cross_entropy(IMAGE, MASK, weight=torch.ones(3, device="meta")),
            ValueError,
            r"weight: got a tensor on meta, expected cpu",
        ),
    ],
)
def test_bad_input_is_a_clear_error(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss_fn", ALL)
def test_more_classes_than_logits_of_a_job(loss_fn: Loss) -> None:
    """A language model's vocabulary, say."""
    logits = torch.randn(3, 70_000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([5, 69_999, 0])
    loss = loss_fn(logits, target)
    expected = getattr(rp.reference, loss_fn.__name__)(logits.double(), target)
    assert_close("loss", loss, expected, rtol=1e-6)
    assert_close("gradient", gradient_of(loss, logits), gradient_of(expected, logits), rtol=1e-5)


def test_more_than_two_to_the_31_elements_by_strides() -> None:
    """3.2e9 logits that share the memory of one image: offsets and counts are 64-bit."""
    image = torch.randn(1, 5, 400, 400)
    mask = torch.randint(5, (1, 400, 400), dtype=torch.uint8)
    times = 4096
    batch, masks = image.expand(times, -1, -1, -1), mask.expand(times, -1, -1)
    assert batch.numel() > 2**31
    with torch.no_grad():
        assert rp.focal_loss(batch, masks).item() == pytest.approx(rp.focal_loss(image, mask).item(), rel=1e-6)


def test_more_than_two_to_the_31_pixels_far_apart() -> None:
    """A view whose last element is more than 2^31 elements from its first; hardly any of the 8 GB is touched."""
    stride = 2**30 + 7
    try:
        storage = torch.empty(2 * stride + 100)
    except RuntimeError:
        pytest.skip("the machine does not give out 8 GB of address space")
    logits = storage.as_strided((3, 2, 50), (stride, 50, 1))
    logits.copy_(torch.randn(3, 2, 50))
    target = torch.randint(2, (3, 50))
    got = rp.cross_entropy(logits, target)
    assert got.item() == pytest.approx(F.cross_entropy(logits.contiguous(), target).item(), rel=1e-6)


@pytest.mark.parametrize("loss_fn", ALL)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_same_bits_for_any_number_of_threads(loss_fn: Loss, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 301, 307).contiguous(memory_format=layout).requires_grad_()
    target = torch.randint(5, (3, 301, 307))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 5, 2):
            torch.set_num_threads(threads)
            loss = loss_fn(logits, target)
            results.append((loss, gradient_of(loss, logits)))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in results[1:]:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("alpha", [None, [1.0, 5.0, 20.0]], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("pt", ["softmax", "weighted_ce"])
def test_a_pixel_does_not_depend_on_the_labels_beside_it(pt: str, alpha: list[float] | None) -> None:
    """Registers of one class go another way than those of several, and background of weight 1 yet another."""
    torch.manual_seed(0)
    logits = (4 * torch.randn(2, 3, 8, 64)).requires_grad_()
    alike = torch.zeros(2, 8, 64, dtype=torch.uint8)
    mixed = alike.clone()
    mixed[..., 1::2] = torch.randint(1, 3, (2, 8, 32), dtype=torch.uint8)
    losses = [rp.focal_loss(logits, target, alpha, pt=pt, reduction="none") for target in (alike, mixed)]
    assert torch.equal(losses[0][..., ::2], losses[1][..., ::2])
    gradients = [gradient_of(loss.sum(), logits) for loss in losses]
    assert torch.equal(gradients[0][..., ::2], gradients[1][..., ::2])
