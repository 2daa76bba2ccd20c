"""The eager path through autograd: gradients that come with the loss where that is possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._C import _functorch

from . import _calls, _core, _cuda, _memory
from ._calls import Call, Value
from ._tensors import memory_format
from .options import Options, spec

_HALF = (torch.float16, torch.bfloat16)


class Synchronised(torch.autograd.Function):
    """The loss of the batches of all ranks: their sums are added up between the two passes.

    The gradient is multiplied by the number of ranks, since DistributedDataParallel divides it by that.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, call: Call, group: torch.distributed.ProcessGroup | None
    ) -> Tensor:
        value = _calls.forward(call, input, target)
        call.sums = _calls.as_tensor(call.sums, input, call.options)
        rows, columns = _calls.sums_shape(input, call.options)
        torch.distributed.all_reduce(call.sums.view(-1)[: rows * columns], group=group)
        if call.on_cuda:
            weights = (call.weight, call.dice_weight)
            _cuda.forward(call.spec, input, target, *weights, cast(Tensor, value), call.sums, summed=True)
        else:
            value = _core.loss_finish(call.spec, _calls.as_numbers(call.sums), input.shape[1], call.dice_weight)
        ctx.save_for_backward(input, target)
        ctx.call, ctx.ranks = call, torch.distributed.get_world_size(group)
        return _calls.total([value], [input])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, target = ctx.saved_tensors
        gradient = _calls.backward(ctx.call, input, target, grad_output * ctx.ranks)
        if torch.is_grad_enabled():  # create_graph=True
            gradient = DifferentiatedOnce.apply(gradient, input, grad_output)
        return gradient, None, None, None


# What each half-precision loss was multiplied with last time, by a GradScaler or by a factor before it.
_last_scale: dict[tuple[Options, torch.Size], float] = {}


def _keeps(input: Tensor, target: Tensor, options: Options) -> bool:
    """Whether the gradient may keep the softmax between two passes: numbers that are not rounded, in planes."""
    floats = input.dtype not in _HALF and target.ndim < input.ndim
    return floats and spec(options).keeps and memory_format(input) == torch.contiguous_format


def _prepare_gradient(call: Call, input: Tensor, target: Tensor) -> None:
    """Memory for what the first pass can bring of the gradient.

    A half-precision gradient must be multiplied by the incoming gradient before it is rounded. That is known in the
    backward pass only, but it rarely changes: the forward pass takes the last one, and a wrong guess costs a second
    pass, with the same result.
    """
    # On CUDA the incoming gradient is not known here without waiting for it.
    if call.on_cuda:
        return
    call.kept = not call.spec.one_pass and _keeps(input, target, call.options)
    if call.kept or call.spec.one_pass:
        call.gradient = _memory.empty_like(input, memory_format(input))
        if input.dtype in _HALF:
            call.scale = _last_scale.get((call.options, input.shape), 1.0)


def _gradient(call: Call, saved: Sequence[Tensor], index: int, grad_output: Tensor) -> Tensor:
    """The gradient of a call whose first pass is done, with its logits and its target among the saved tensors."""
    # It is handed over, not kept: a second backward pass (retain_graph) computes it again, from the target itself.
    gradient, call.gradient = call.gradient, None
    if gradient is not None and not call.kept:
        scale = grad_output.item()
        if scale == call.scale:
            return gradient
        if gradient.dtype in _HALF:
            if len(_last_scale) >= 256:  # images of ever new sizes
                _last_scale.clear()
            _last_scale[call.options, gradient.shape] = scale
        elif math.isfinite(scale):  # an infinite one makes nan of the 0 at an ignored pixel
            return gradient.mul_(scale)
    gradient = _calls.backward(call, saved[index], saved[len(saved) // 2 + index], grad_output, gradient)
    call.labels = None
    return gradient


class Loss(torch.autograd.Function):
    """The eager path: the sum of the calls, each on its own map of logits and all with the same target.

    The forward pass allocates the gradients. A loss of one pass writes it; one of two keeps a softmax there. `values`
    is filled with what the calls give.
    """

    @staticmethod
    def forward(ctx: Any, calls: Sequence[Call], values: list[Value], *operands: Tensor) -> Tensor:
        inputs, targets = operands[: len(calls)], operands[len(calls) :]
        # All at once: after each loss what allocates memory would have to come into the cache again.
        for index, call in enumerate(calls):
            if ctx.needs_input_grad[2 + index]:
                _prepare_gradient(call, inputs[index], targets[index])
        known = None
        for call, input, target in zip(calls, inputs, targets, strict=True):
            values.append(_calls.forward(call, input, target, known))
            known = known or call.labels
        ctx.save_for_backward(*operands)
        ctx.calls = calls
        return _calls.total(values, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if _functorch.is_legacy_batchedtensor(grad_output) or _functorch.is_batchedtensor(grad_output):
            raise RuntimeError(
                "rarepixel's losses have no batched backward pass (is_grads_batched=True, vectorize=True): "
                "use rarepixel.reference"
            )
        gradients: list[Tensor | None] = [None, None]
        saved = ctx.saved_tensors  # once: each time hooks, as those of checkpoint, bring all of them back
        for index, call in enumerate(ctx.calls):
            wanted = ctx.needs_input_grad[2 + index]
            gradient = _gradient(call, saved, index, grad_output) if wanted else None
            if gradient is not None and torch.is_grad_enabled():  # create_graph=True
                gradient = DifferentiatedOnce.apply(gradient, saved[index], grad_output)
            gradients.append(gradient)
        return *gradients, *[None] * len(ctx.calls)


ONCE = "rarepixel's losses can be differentiated once; for second derivatives use rarepixel.reference"


class DifferentiatedOnce(torch.autograd.Function):
    """The gradient, with an error in the place of its own derivative by the logits and by the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, input: Tensor, grad_output: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(ONCE)
