"""The two passes of a loss over torch's tensors, on the CPU and on CUDA. autograd is none of their business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from . import _checks, _core, _cuda, _memory, _tensors
from ._tensors import compute_dtype, foldable, memory_format, prepared
from .options import Options, spec

# Weights for each class as Rust reads them: a list of numbers on the CPU, a tensor on CUDA.
Weight: TypeAlias = Any

# A number, or a tensor on CUDA and for each pixel.
Value: TypeAlias = "float | Tensor"

# What the second pass needs of the first: row by row as a list of numbers on the CPU; on CUDA a tensor of one
# dimension, where the coefficients of the gradient follow.
Sums: TypeAlias = Any


class Call:
    """One loss of one map of logits as the two passes read it, and what the first leaves for the second.

    No tensor of the user's, nor the loss: autograd keeps this as long as the loss.
    """

    __slots__ = (
        "dice_weight",
        "gradient",
        "kept",
        "labels",
        "on_cuda",
        "options",
        "scale",
        "spec",
        "sums",
        "version",
        "weight",
    )

    def __init__(self, weight: Weight, dice_weight: Weight, options: Options, on_cuda: bool) -> None:
        self.weight, self.dice_weight, self.options, self.on_cuda = weight, dice_weight, options, on_cuda
        self.spec = spec(options)
        self.version = _version(weight)
        # The gradient of a loss of one pass, for an incoming gradient of `scale`; of another one, the memory for it,
        # where a softmax may be `kept`.
        self.gradient: Tensor | None = None
        self.scale, self.kept = 1.0, False
        self.sums: Sums = None
        # On the CPU, of the target.
        self.labels: _core.Labels | None = None


def _version(weight: Weight) -> int | None:
    """How often a tensor has been changed in place: the second pass on CUDA reads the one that the first read."""
    return None if not isinstance(weight, Tensor) or weight.is_inference() else weight._version


def constants(weight: Tensor | None, input: Tensor) -> Weight:
    """Weights as Rust reads them: numbers, or on CUDA their memory, which is not waited for."""
    if weight is None:
        return None
    return weight.to(compute_dtype(input)).contiguous() if _tensors.on_cuda(input) else weight.tolist()


def empty_loss(input: Tensor, target: Tensor, options: Options) -> Tensor:
    """An empty tensor for the loss."""
    shape: Sequence[int] = ()
    if options.reduction == "none":
        # A loss for each pixel of the target, or of the map that the target was resized to.
        resized = options.target_mode not in ("exact", "upsample_logits")
        shape = (input.shape[0], *input.shape[2:]) if resized else target.shape
    return torch.empty(shape, dtype=compute_dtype(input), device=input.device)


def sums_shape(input: Tensor, options: Options) -> tuple[int, int]:
    """Rows and columns of the sums."""
    has_region = options.region != "none"
    return input.shape[0] if options.per_sample and has_region else 1, 3 + (3 * input.shape[1] if has_region else 0)


def sums_tensor_shape(input: Tensor, options: Options) -> tuple[int, ...]:
    """The shape of a tensor of float64 with what the second pass needs of the first."""
    rows, columns = sums_shape(input, options)
    if not _tensors.on_cuda(input):
        return rows, columns
    coefficients = rows * (1 if options.region == "none" else 1 + 2 * input.shape[1])  # in the type of the computation
    return (rows * columns + -(-coefficients * compute_dtype(input).itemsize // 8),)


def forward(call: Call, input: Tensor, target: Tensor, known: _core.Labels | None = None) -> Value:
    """The value of the call. Its sums stay in it; on the CPU also what its `gradient` is for.

    `known` is what an earlier call found of the same target.
    """
    if call.on_cuda:
        if _cuda.debugging() and target.ndim < input.ndim:
            _checks.check_labels(target, input.shape[1], call.options.ignore_index)
        loss = empty_loss(input, target, call.options)
        call.sums = torch.empty(sums_tensor_shape(input, call.options), dtype=torch.float64, device=input.device)
        _cuda.forward(call.spec, input, target, call.weight, call.dice_weight, loss, call.sums)
        return loss
    pixels = empty_loss(input, target, call.options) if call.options.reduction == "none" else None
    value, call.sums, call.labels = _core.loss_forward(
        call.spec,
        input,
        target,
        call.weight,
        call.dice_weight,
        pixels,
        call.gradient,
        call.scale,
        known,
        torch.get_num_threads(),
    )
    return value if pixels is None else pixels


def total(values: Sequence[Value], inputs: Sequence[Tensor]) -> Tensor:
    """The sum of the values of calls."""
    if isinstance(values[0], Tensor):
        return added(cast(Sequence[Tensor], values))
    total, dtype = 0.0, torch.float32
    for value, input in zip(values, inputs, strict=True):
        total += value  # type: ignore[assignment] # all are numbers if the first is
        if input.dtype == torch.float64:
            dtype = torch.float64
    return torch.scalar_tensor(total, dtype=dtype, device="cpu")


def as_numbers(sums: Sums) -> list[float]:
    """The sums row by row."""
    return sums.flatten().tolist() if isinstance(sums, Tensor) else sums


def as_tensor(sums: Sums, input: Tensor, options: Options) -> Tensor:
    """The sums in a tensor."""
    if isinstance(sums, Tensor):
        return sums
    return torch.tensor(sums, dtype=torch.float64, device="cpu").view(sums_tensor_shape(input, options))


def backward(call: Call, input: Tensor, target: Tensor, grad_output: Tensor, gradient: Tensor | None = None) -> Tensor:
    """The gradient, in the memory of `gradient` if given, where the call may have kept a softmax."""
    kept = call.kept and gradient is not None
    if gradient is None:
        gradient = _memory.empty_like(input, memory_format(input))
    grad_output = foldable(grad_output, 1)
    if call.on_cuda:
        grad_output = grad_output.to(compute_dtype(input))
        if _version(call.weight) != call.version:
            raise RuntimeError(
                "class weights of a loss, which its gradient needs, have been modified by an inplace operation: "
                f"they are at version {_version(call.weight)}, expected version {call.version}"
            )
        upsampled = call.options.target_mode == "upsample_logits"
        _cuda.backward(call.spec, grad_output, input, target, call.weight, call.sums, gradient, upsampled)
        return gradient
    _core.loss_backward(
        call.spec,
        grad_output,
        input,
        target,
        call.weight,
        call.dice_weight,
        as_numbers(call.sums),
        gradient,
        kept,
        call.labels,
        torch.get_num_threads(),
    )
    return gradient


def added(losses: Sequence[Tensor]) -> Tensor:
    """Their sum, in the larger of their types."""
    if len(losses) == 1:
        return losses[0]
    same = len({loss.dtype for loss in losses}) == 1
    if not same:
        return sum(losses[1:], losses[0])
    # In float64 the order does not matter, and it is the same as of eager losses on the CPU.
    return torch.stack(list(losses)).sum(dtype=torch.float64).to(losses[0].dtype)


def resized(
    input: Tensor,
    target: Tensor,
    options: Options,
    add_up: Callable[[Tensor], object] | None = None,
) -> tuple[Tensor, Options]:
    """For "nearest" and "majority" labels of the size of the logits, and the options that go with them.

    `add_up` adds up over ranks the pixels of each class, which decide ties of "majority".
    """
    if options.target_mode not in ("nearest", "majority"):
        return target, options
    majority, exact = options.target_mode == "majority", options._replace(target_mode="exact")
    if target.shape[1:] == input.shape[2:]:
        return target, exact
    target, ignore_index = foldable(target, 1), options.ignore_index
    labels = target.new_empty((input.shape[0], *input.shape[2:]), dtype=torch.int32)
    if _tensors.on_cuda(input):
        classes = input.shape[1]
        if _cuda.debugging():
            _checks.check_labels(target, classes, ignore_index)
        counts = _cuda.class_counts(target, classes, ignore_index) if majority else None
        if counts is not None and add_up is not None:
            add_up(counts)
        _cuda.resize(input, target, counts, labels, ignore_index)
    else:
        threads = torch.get_num_threads()
        counts = torch.tensor(_core.class_counts(spec(options), input, target, threads), device="cpu")
        if majority and add_up is not None:
            add_up(counts)
        _core.resize_labels(input, target, counts.tolist() if majority else None, labels, ignore_index, threads)
    return labels, exact._replace(ignore_index=-1)  # loss/resize.rs: IGNORED


def called(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor, Call]:
    """The operands as the two passes read them."""
    input, target = prepared(input, target)
    on_cuda = _tensors.on_cuda(input)
    if on_cuda:
        target, options = resized(input, target, options)
    return input, target, Call(constants(weight, input), constants(dice_weight, input), options, on_cuda)
