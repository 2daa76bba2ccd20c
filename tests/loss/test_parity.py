"""Every loss and every argument against plain torch in float64: value and gradient, over shapes, dtypes and layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rarepixel as rp
from rarepixel import reference
from support import LAYOUTS, PRECISIONS, Precision, assert_close, gradient_of, laid_out

REGION_LOSSES = ("dice_loss", "tversky_loss")
LOSSES = ("cross_entropy", "focal_loss", *REGION_LOSSES, "dice_focal_loss")
LABEL_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)


@st.composite
def weights(draw: st.DrawFn, classes: int) -> list[float] | None:
    if draw(st.booleans()):
        return None
    values = st.one_of(st.just(0.0), st.floats(0.01, 50.0))
    return draw(st.lists(values, min_size=classes, max_size=classes))


@st.composite
def options(draw: st.DrawFn, name: str, classes: int) -> dict[str, Any]:
    """Arguments of the loss, drawn."""
    chosen: dict[str, Any] = {"ignore_index": draw(st.sampled_from([-100, 255, 0, 1]))}
    if name == "cross_entropy":
        chosen["weight"] = draw(weights(classes))
        chosen["label_smoothing"] = draw(st.sampled_from([0.0, 0.1, 1.0]))
    if "focal" in name:
        chosen["alpha"] = draw(weights(classes))
        chosen["gamma"] = draw(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.7, 5.0]))
        chosen["pt"] = draw(st.sampled_from(["softmax", "weighted_ce"]))
    if name == "tversky_loss":
        chosen["alpha"] = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.5]))
        # Not 0: without smooth the loss is then the same for p and p / 2, and its derivative a difference of two large
        # numbers that may be 0. In float64 test_gradcheck has it.
        chosen["beta"] = draw(st.sampled_from([0.3, 0.5, 1.0, 2.5]))
    if name in REGION_LOSSES or name == "dice_focal_loss":
        chosen["smooth"] = draw(st.sampled_from([0.0, 1e-6, 1.0]))
        chosen["average"] = draw(st.sampled_from(["micro", "macro"]))
        chosen["per_sample"] = draw(st.booleans())
        chosen["include_background"] = draw(st.booleans())
        chosen["absent"] = draw(st.sampled_from(["count", "skip"]))
        chosen["weight" if name in REGION_LOSSES else "dice_weight"] = draw(weights(classes))
    if name == "dice_focal_loss":
        chosen["lambda_focal"] = draw(st.floats(-2, 2))
        chosen["lambda_dice"] = draw(st.floats(-2, 2))
        chosen["reduction"] = draw(st.sampled_from(["mean", "sum"]))
    elif name not in REGION_LOSSES:
        chosen["reduction"] = draw(st.sampled_from(["mean", "sum", "none"]))
    return chosen


@st.composite
def batches(draw: st.DrawFn, name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """float64 logits, labels, options."""
    classes = draw(st.sampled_from([1, 2, 3, 5, 8, 9, 17, 40]))
    spatial = draw(st.lists(st.integers(1, 9), max_size=3))
    if draw(st.booleans()) and spatial:
        spatial[-1] *= draw(st.sampled_from([7, 16, 33]))  # beyond one register
    samples = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    spread = draw(st.sampled_from([0.5, 3.0, 20.0]))
    logits = torch.randn(samples, classes, *spatial, generator=generator, dtype=torch.float64) * spread
    labels = torch.randint(classes, (samples, *spatial), generator=generator)
    chosen = draw(options(name, classes))
    ignored = torch.rand(labels.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9]))
    labels[ignored] = chosen["ignore_index"]
    return logits, labels, chosen


def as_tensors(chosen: dict[str, Any], device: str = "cpu") -> dict[str, Any]:
    return {
        name: torch.tensor(value, dtype=torch.float64, device=device) if isinstance(value, list) else value
        for name, value in chosen.items()
    }


def compare(
    name: str,
    precision: Precision,
    logits: torch.Tensor,
    labels: torch.Tensor,
    layout: str,
    chosen: dict[str, Any],
    device: str = "cpu",
) -> None:
    """The fused loss and gradient against the float64 truth on the same (rounded) logits."""
    rounded = laid_out(logits.to(device, precision.dtype), layout)
    labels = labels.to(device)
    input = rounded.detach().requires_grad_()
    truth_input = rounded.detach().double().requires_grad_()
    loss = getattr(rp, name)(input, labels, **chosen)
    truth = getattr(reference, name)(truth_input, labels, **as_tensors(chosen, device))
    assert loss.dtype == (torch.float64 if precision.dtype == torch.float64 else torch.float32)
    generator = torch.Generator().manual_seed(0)
    incoming = torch.randn(loss.shape, generator=generator, dtype=torch.float64)
    gradient = gradient_of(loss, input, incoming.to(loss))
    true_gradient = gradient_of(truth, truth_input, incoming.to(loss).double())
    assert gradient.dtype == precision.dtype
    own_loss_error = own_gradient_error = 0.0
    # No further from the truth than torch's own float32, or 1e-6: without smooth a class with a probability of e^-106
    # and no more has a score in float64 alone.
    if precision.dtype != torch.float64:
        own_input = rounded.detach().float().requires_grad_()
        own = getattr(reference, name)(own_input, labels, **as_tensors(chosen, device))
        own_loss_error = (own.double() - truth).abs().max().item() if own.numel() else 0.0
        own_gradient = gradient_of(own, own_input, incoming.to(own)).double()
        own_gradient_error = (own_gradient - true_gradient).abs().max().item() if own_gradient.numel() else 0.0
    if precision.dtype == torch.float64:
        conditioning, rounding = 0.0, 1e-15
    else:
        # exp turns the rounding of z - max z, half a unit in its last place, into a relative error of p.
        extent = rounded.double().abs().max().item() if rounded.numel() else 0.0
        conditioning, rounding = 2**-23 * extent, 1e-7
    # A sum of terms of both signs may be small beside its terms, and 1 - p beside 1: the terms set the scale.
    largest = max([1.0, *(w for value in chosen.values() if isinstance(value, list) for w in value)])
    term = max(1.0, true_gradient.abs().max().item() if true_gradient.numel() else 0.0)
    assert_close("loss", loss, truth, precision.loss_rtol + conditioning, rounding * term * largest, own_loss_error)
    atol = precision.gradient_atol + 1e-15 * largest  # the rounding of the float64 truth itself
    # W p - w of label smoothing cancels where p is almost 1.
    atol += rounding * chosen.get("label_smoothing", 0.0) * largest
    if name in (*REGION_LOSSES, "dice_focal_loss"):
        # Here too terms of both signs, one divided by the pixels in size, may almost cancel.
        valid = (
            labels.numel() if labels.ndim == input.ndim else (labels != chosen.get("ignore_index", -100)).sum().item()
        )
        atol += rounding / max(1, valid)
    assert_close("gradient", gradient, true_gradient, precision.gradient_rtol + conditioning, atol, own_gradient_error)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_equals_the_reference(name: str, precision: Precision, data: st.DataObject) -> None:
    logits, labels, chosen = data.draw(batches(name))
    layout = data.draw(st.sampled_from(LAYOUTS))
    wide_enough = [dtype for dtype in LABEL_DTYPES if labels.to(dtype).long().equal(labels)]
    compare(name, precision, logits, labels.to(data.draw(st.sampled_from(wide_enough))), layout, chosen)


@pytest.mark.parametrize("name", REGION_LOSSES)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_soft_targets_equal_the_reference(name: str, precision: Precision, data: st.DataObject) -> None:
    logits, labels, chosen = data.draw(batches(name))
    generator = torch.Generator().manual_seed(1)
    shares = torch.rand(logits.shape, generator=generator, dtype=torch.float64).softmax(1)
    one_hot = F.one_hot(labels.clamp(0, logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1)
    target = data.draw(st.sampled_from([shares, shares.float(), one_hot, one_hot.float(), one_hot.bool()]))
    target = laid_out(target, data.draw(st.sampled_from(["contiguous", "channels_last", "permuted"])))
    layout = data.draw(st.sampled_from(LAYOUTS))
    if precision.dtype != torch.float64:
        target = target if target.dtype != torch.float64 else target.float()
    compare(name, precision, logits, target, layout, chosen)


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "shape", [(2, 5, 130, 257), (3, 1024, 9, 10), (70_000, 3), (3, 2, 4, 50, 61), (2, 64, 4097)], ids=str
)
def test_large_batches_on_several_threads(name: str, precision: Precision, layout: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = -100
    class_weights = torch.rand(shape[1], generator=generator).tolist()
    chosen: dict[str, Any] = {} if name in REGION_LOSSES else {"alpha": class_weights}
    if name == "cross_entropy":
        chosen = {"weight": class_weights}
    if "dice" in name:
        chosen["average"] = "macro"
    if name == "tversky_loss":
        chosen = {"alpha": 0.3, "beta": 0.7}
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        compare(name, precision, logits, labels, layout, chosen)
    finally:
        torch.set_num_threads(before)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cross_entropy_is_torchs(data: st.DataObject) -> None:
    """Not our reference but torch itself, wherever torch gives a number."""
    logits, labels, chosen = data.draw(batches("cross_entropy"))
    input = logits.requires_grad_()
    truth_input = logits.detach().clone().requires_grad_()
    loss = rp.cross_entropy(input, labels, **chosen)
    truth = F.cross_entropy(truth_input, labels, **as_tensors(chosen))
    if not truth.isfinite().all():
        return
    assert_close("loss", loss, truth, 1e-12, 1e-15)
    incoming = torch.ones_like(truth)
    # torch forms p - 1 where ours does not cancel: its rounding is the tolerance.
    largest = max([1.0, *(chosen["weight"] or [])])
    got, expected = gradient_of(loss, input, incoming), gradient_of(truth, truth_input, incoming)
    assert_close("gradient", got, expected, 1e-12, 1e-15 * largest)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_dice_is_tversky_at_one_half_with_half_the_smooth(data: st.DataObject) -> None:
    logits, labels, chosen = data.draw(batches("dice_loss"))
    input = logits.requires_grad_()
    dice = rp.dice_loss(input, labels, **chosen)
    tversky = rp.tversky_loss(input, labels, **chosen | {"smooth": chosen["smooth"] / 2})  # alpha = beta = 0.5
    assert_close("loss", tversky, dice, 1e-15, 1e-15)
    assert_close("gradient", gradient_of(tversky, input), gradient_of(dice, input), 1e-14, 1e-300)


def test_tversky_at_one_is_jaccard_and_beta_asks_for_recall() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 300, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (2, 300), generator=generator)
    p, y = logits.softmax(1), F.one_hot(labels, 4).movedim(-1, 1)
    intersection, union = (p * y).sum((0, 2)), (p + y - p * y).sum((0, 2))
    jaccard = rp.tversky_loss(logits, labels, alpha=1.0, beta=1.0, smooth=0.0)
    assert jaccard.item() == pytest.approx(1 - (intersection / union).mean().item(), rel=1e-12)
    # Class 3 is predicted where it is not, or not where it is.
    certain = 20.0 * F.one_hot(labels, 4).movedim(-1, 1).double()
    too_much, missing = certain.clone(), certain.clone()
    too_much[:, 3, :100] = 40.0
    missing[:, 0] = torch.where(labels == 3, 40.0, certain[:, 0])
    only = {"average": "macro", "weight": [0.0, 0.0, 0.0, 1.0]}
    for logits in (too_much, missing):
        precise, complete = (rp.tversky_loss(logits, labels, a, 1 - a, **only).item() for a in (0.9, 0.1))
        assert (precise > complete) == (logits is too_much)
