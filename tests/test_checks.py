"""Operands that no kernel checks: in transforms, and of tensors without data, the errors are those of the kernels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import rarepixel as rp
from rarepixel import ops
from rarepixel.options import Options

Loss = Callable[..., torch.Tensor]
ALL = [rp.cross_entropy, rp.focal_loss, rp.dice_loss, rp.tversky_loss, rp.dice_focal_loss]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, 5, generator=generator), torch.randint(4, (2, 6, 5), generator=generator)


def by_grad(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> object:
    return torch.func.grad(lambda z: loss(z, target))(logits)


def by_vmap(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> object:
    return torch.vmap(lambda z: loss(z, target))(logits[None])


def by_vmap_of_both(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> object:
    return torch.vmap(loss)(logits[None], target[None])


def by_grads_of_each(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> object:
    return torch.vmap(torch.func.grad(loss))(logits[None], target[None])


def by_jvp(loss: Loss, logits: torch.Tensor, target: torch.Tensor) -> object:
    return torch.func.jvp(lambda z: loss(z, target), (logits,), (logits,))


TRANSFORMS = [by_grad, by_vmap, by_vmap_of_both, by_grads_of_each, by_jvp]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("label", [4, -1])
def test_a_label_that_is_no_class(loss: Loss, transform: Callable[..., object], label: int) -> None:
    logits, target = batch()
    transform(loss, logits, target)
    target[1, 2, 3] = label
    with pytest.raises(ValueError, match=re.escape(f"target: got label {label} at position [")) as hidden:
        transform(loss, logits, target)
    with pytest.raises(ValueError, match="target: got label") as seen:
        loss(logits, target)
    # A vmap over both has one more dimension.
    assert str(hidden.value).replace("[0, 1, 2, 3]", "[1, 2, 3]") == str(seen.value)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("loss", "argument"),
    [
        (rp.cross_entropy, "weight"),
        (rp.focal_loss, "alpha"),
        (rp.dice_loss, "weight"),
        (rp.tversky_loss, "weight"),
        (rp.dice_focal_loss, "alpha"),
        (rp.dice_focal_loss, "dice_weight"),
    ],
)
@pytest.mark.parametrize("weight", [[1.0, -1.0, 1.0, 1.0], [1.0, float("nan"), 1.0, 1.0], [1.0, 2.0]])
def test_weights(loss: Loss, argument: str, transform: Callable[..., object], weight: list[float]) -> None:
    logits, target = batch()
    options = {"average": "macro"} if argument == "dice_weight" or loss in (rp.dice_loss, rp.tversky_loss) else {}

    def weighted(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(logits, target, **{argument: weight}, **options)

    with pytest.raises(ValueError, match=f"^{argument}: got ") as hidden:
        transform(weighted, logits, target)
    with pytest.raises(ValueError, match=argument) as seen:
        weighted(logits, target)
    # Rust writes -1 and NaN.
    assert str(hidden.value).replace(".0 ", " ").lower() == str(seen.value).lower()


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
@pytest.mark.parametrize("loss", [rp.dice_loss, rp.tversky_loss])
def test_where_labels_are_not_looked_at_the_loss_is_nan(loss: Loss) -> None:
    """A trace and other devices, which would have to be waited for, as on CUDA."""
    logits, target = batch()
    traced = torch.jit.trace(lambda z, y: loss(z, y), (logits, target), check_trace=False)
    torch.testing.assert_close(traced(logits, target), loss(logits, target))
    target[0, 0, 0] = 4
    assert traced(logits, target).isnan()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_derivatives_keep_the_type_of_the_loss(loss: Loss, dtype: torch.dtype) -> None:
    logits, target = batch()
    logits = logits.to(dtype)
    value, tangent = torch.func.jvp(lambda z: loss(z, target), (logits,), (logits,))
    assert value.dtype == tangent.dtype == torch.float32
    assert torch.func.jacfwd(lambda z: loss(z, target))(logits).dtype == torch.float32


def device_without_data(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.to("meta") for tensor in tensors]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y: (z, y[:1]), r"target: got shape \[1, 6, 5\], expected \[2, 6, 5\]"),
        (lambda z, y: (z, y.float()), "target: got torch.float32, expected uint8"),
        (lambda z, y: (z.int(), y), "input: got torch.int32, expected float32"),
        (lambda z, y: (z[:, :0], y), "input: got 0 classes, expected at least 1 class in dimension 1"),
        (lambda z, y: (z[..., None, None], y), r"input: got shape \[2, 4, 6, 5, 1, 1\], expected \(N, C, \*spatial\)"),
    ],
)
@pytest.mark.parametrize("loss", ALL)
def test_tensors_without_data(loss: Loss, change: Callable[..., Any], message: str) -> None:
    logits, target = device_without_data(*batch())
    assert loss(logits, target).shape == ()
    with pytest.raises((TypeError, ValueError), match=message):
        loss(*change(logits, target))
    if loss is rp.cross_entropy:
        with pytest.raises(ValueError, match="label_smoothing: got 7"):
            loss(logits, target, label_smoothing=7.0)
        with pytest.raises(ValueError, match="weight: got 9 values, expected 4 values"):
            loss(logits, target, weight=torch.ones(9, device="meta"))


def test_an_upsampled_map_has_two_dimensions() -> None:
    logits, target = batch()
    plain = Options(pixel="focal", target_mode="upsample_logits")
    with pytest.raises(ValueError, match=r"input: got shape \[2, 4, 6\], expected \(N, C, height, width\) where"):
        ops._plain(logits[..., 0], target[..., :4], None, None, plain)
    with pytest.raises(ValueError, match=r"target: got shape \[2, 3\], expected \(N, height, width\) class indices"):
        ops._plain(logits, target[:, :3, 0], None, None, plain)


class Step(torch.nn.Module):
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return rp.cross_entropy(logits, target, label_smoothing=7.0)


def test_export_checks_options_and_shapes() -> None:
    logits, target = batch()
    with pytest.raises(Exception, match="label_smoothing: got 7"):
        torch.export.export(Step(), (logits, target))


@pytest.mark.parametrize("loss", ALL)
def test_transforms_that_trace_take_the_loss(loss: Loss) -> None:
    """Nothing is read from tensors that have nothing to read."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    logits, target = batch()

    def by_logits(z: torch.Tensor) -> torch.Tensor:
        return loss(z, target)

    expected = torch.func.grad(by_logits)(logits)
    value, tangent_of = torch.func.linearize(by_logits, logits)
    torch.testing.assert_close(value, loss(logits, target))
    torch.testing.assert_close(tangent_of(torch.ones_like(logits)), expected.sum(), atol=1e-6, rtol=1e-5)
    for mode in ("real", "fake"):
        graph = make_fx(torch.func.grad(lambda z, y: loss(z, y)), tracing_mode=mode)(logits, target)
        torch.testing.assert_close(graph(logits, target), expected)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert torch.func.grad(by_logits)(torch.empty(logits.shape)).shape == logits.shape


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
@pytest.mark.parametrize("loss", [rp.dice_loss, rp.tversky_loss])
def test_shares_of_whole_numbers_are_no_labels(loss: Loss) -> None:
    logits, target = batch()
    shares = torch.nn.functional.one_hot(target, 4).movedim(-1, 1) * 7
    expected = loss(logits, shares)
    assert expected.isfinite()
    value, _ = torch.func.jvp(lambda z: loss(z, shares), (logits,), (logits,))
    torch.testing.assert_close(value, expected)
    traced = torch.jit.trace(lambda z, y: loss(z, y), (logits, shares), check_trace=False)
    torch.testing.assert_close(traced(logits, shares), expected)


def test_weights_under_vmap() -> None:
    logits, target = batch()
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 1.0, 2.0]])
    got = torch.vmap(lambda weight: rp.cross_entropy(logits, target, weight=weight))(weights)
    torch.testing.assert_close(got, torch.stack([rp.cross_entropy(logits, target, weight) for weight in weights]))


class Masked(torch.nn.Module):
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return rp.cross_entropy(logits.movedim(1, -1)[target != 2], target[target != 2])


def test_sizes_that_a_trace_does_not_know() -> None:
    logits, target = batch()
    program = torch.export.export(Masked(), (logits, target))
    for shift in (0, 1):
        shifted = (target + shift) % 4
        torch.testing.assert_close(program.module()(logits, shifted), Masked()(logits, shifted))


class Upsampled(torch.nn.Module):
    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return rp.cross_entropy(logits, target, upsample=True)


def test_sizes_may_be_equal_after_an_export_with_others() -> None:
    from torch.export import Dim

    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 4, 8, 8, generator=generator), torch.zeros(2, 32, 32, dtype=torch.long)
    sizes = ({2: Dim("h"), 3: Dim("w")}, {1: Dim("H"), 2: Dim("W")})
    program = torch.export.export(Upsampled(), (logits, target), dynamic_shapes=sizes)
    logits, target = torch.randn(2, 4, 16, 8, generator=generator), torch.zeros(2, 16, 24, dtype=torch.long)
    torch.testing.assert_close(program.module()(logits, target), Upsampled()(logits, target))


@pytest.mark.parametrize("factor", [True, 2, 1e39])
def test_factors_of_terms_are_what_they_are_elsewhere(factor: float) -> None:
    logits, target = batch()
    options = {"lambda_focal": factor, "lambda_dice": 0.5}
    value, _ = torch.func.jvp(lambda z: rp.dice_focal_loss(z, target, **options), (logits,), (logits,))
    torch.testing.assert_close(value, rp.dice_focal_loss(logits, target, **options))
