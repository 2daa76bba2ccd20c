"""The operator with its backward pass, registered with ``torch.library``: ``torch.ops.rarepixel.loss``.

This is what ``torch.compile``, ``torch.export``, fake tensors and dispatch modes see.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _calls, _checks
from ._autograd import ONCE
from ._tensors import memory_format
from .options import Options, alike, spec

# torch's schema language calls these types as Python does.
_OPTIONS_SCHEMA = ", ".join(f"{type(value).__name__} {name}" for name, value in Options._field_defaults.items())

_library = torch.library.Library("rarepixel", "DEF")
_WEIGHTS = "Tensor? weight, Tensor? dice_weight"
_library.define(f"loss(Tensor input, Tensor target, {_WEIGHTS}, {_OPTIONS_SCHEMA}) -> (Tensor, Tensor)")
_library.define(
    f"loss_backward(Tensor grad_output, Tensor input, Tensor target, {_WEIGHTS}, Tensor sums, {_OPTIONS_SCHEMA})"
    " -> Tensor"
)


def loss(input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, options: Options) -> Tensor:
    """The loss by way of the operator."""
    if not is_compiling():  # which cannot trace it; the operator's fake one does the same
        spec(options)
    result: Tensor = torch.ops.rarepixel.loss(input, target, weight, dice_weight, *alike(options))[0]
    return result


@torch.library.impl(_library, "loss", "CPU")
@torch.library.impl(_library, "loss", "CUDA")
def _loss_kernel(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    input, target, call = _calls.called(input, target, weight, dice_weight, Options(*options))
    value = _calls.forward(call, input, target)
    return _calls.total([value], [input]), _calls.as_tensor(call.sums, input, call.options)


@torch.library.impl(_library, "loss_backward", "CPU")
@torch.library.impl(_library, "loss_backward", "CUDA")
def _loss_backward_kernel(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    sums: Tensor,
    *options: Any,
) -> Tensor:
    layout = memory_format(input)
    input, target, call = _calls.called(input, target, weight, dice_weight, Options(*options))
    call.sums = sums
    return _calls.backward(call, input, target, grad_output).contiguous(memory_format=layout)


@torch.library.register_fake("rarepixel::loss", lib=_library)
def _loss_fake(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    chosen = Options(*options)
    spec(chosen)
    _checks.check_shapes(input, target, weight, dice_weight, chosen)
    sums = torch.empty(_calls.sums_tensor_shape(input, chosen), dtype=torch.float64, device=input.device)
    return _calls.empty_loss(input, target, chosen), sums


@torch.library.register_fake("rarepixel::loss_backward", lib=_library)
def _loss_backward_fake(grad_output: Tensor, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input, memory_format=memory_format(input))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, target, weight, dice_weight, *ctx.options = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(input, target, weight, dice_weight, output[1])


def _registered_backward(ctx: Any, grad_loss: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
    input, target, weight, dice_weight, sums = ctx.saved_tensors
    gradient = torch.ops.rarepixel.loss_backward(grad_loss, input, target, weight, dice_weight, sums, *ctx.options)
    return gradient, None, None, None, *(None for _ in ctx.options)


torch.library.register_autograd("rarepixel::loss", _registered_backward, setup_context=_setup_context, lib=_library)


def _no_second_derivative(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(ONCE)


torch.library.register_autograd("rarepixel::loss_backward", _no_second_derivative, lib=_library)
