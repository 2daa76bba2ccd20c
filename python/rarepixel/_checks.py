"""The checks of operands by plain torch, where no kernel makes them: tensors without data, and transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C import _functorch
from torch.compiler import is_compiling

from . import _tensors
from .options import Options, weight_names

_LOGITS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)


def check_shapes(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    options: Options,
) -> None:
    """All that shapes and types tell."""
    _tensors.expect_logits(input)
    if input.dtype not in _LOGITS:
        raise TypeError(f"input: got {input.dtype}, expected float32, float64, float16 or bfloat16")
    if _holds(input.shape[1] == 0):
        raise ValueError("input: got 0 classes, expected at least 1 class in dimension 1")
    soft = target.ndim == input.ndim and options.pixel == "none"
    indices = [input.shape[0], *input.shape[2:]]
    expected = list(input.shape) if soft else indices
    if options.target_mode == "exact" and _differ(target.shape, expected):
        raise ValueError(
            f"target: got shape {list(target.shape)}, expected {expected}: "
            "(N, *spatial) for an input of (N, C, *spatial)"
        )
    if _differ(target.shape[:1], input.shape[:1]):
        raise ValueError(f"target: got {target.shape[0]} samples, expected {input.shape[0]}, as input has")
    # The rank first: a trace, in which sizes may be symbols, is not to ask whether they are equal.
    if input.ndim != 4 and _differ(target.shape, expected):
        raise ValueError(
            f"input: got shape {list(input.shape)}, expected (N, C, height, width) where target has another size"
        )
    if target.ndim != 3 and _differ(target.shape, expected):
        raise ValueError(
            f"target: got shape {list(target.shape)}, expected (N, height, width) class indices where its size is not "
            "that of input"
        )
    if not soft and target.dtype not in _LABELS:
        raise TypeError(f"target: got {target.dtype}, expected uint8, int16, int32 or int64 class indices")
    for name, weights in zip(weight_names(options), (weight, dice_weight), strict=True):
        if weights is not None:
            check_length(name, weights, input)


def check_length(argument: str, weight: Tensor | Sequence[float] | NDArray[Any], input: Tensor) -> None:
    """That there is a weight for each class."""
    classes = input.shape[1]
    if _holds(len(weight) != classes):
        raise ValueError(
            f"{argument}: got {len(weight)} values, expected {classes} values, one for each class of input"
        )


def _differ(sizes: Sequence[Any], expected: Sequence[Any]) -> bool:
    return len(sizes) != len(expected) or any(_holds(a != b) for a, b in zip(sizes, expected, strict=True))


def _holds(condition: Any) -> bool:
    """A condition on sizes; where a trace cannot know, it is left to the kernels."""
    if not isinstance(condition, torch.SymBool):
        return bool(condition)
    from torch.fx.experimental import symbolic_shapes

    # Newer versions of torch have the first, older ones the second.
    known = getattr(symbolic_shapes, "guard_or_false", getattr(symbolic_shapes, "definitely_true", bool))
    return bool(known(condition))


def check_constant(argument: str, weight: Tensor) -> None:
    """That weights are real numbers, which get no gradient."""
    if weight.is_complex():
        raise TypeError(f"{argument}: got {weight.dtype}, expected one number for each class")
    if weight.requires_grad:
        raise ValueError(
            f"{argument}: got a tensor that requires grad, expected constants: the losses give no gradient for it"
        )


def check_weight(argument: str, values: Sequence[float]) -> None:
    """Raise the error that CPU tensors give for a weight that is negative or not finite."""
    for index, value in enumerate(values):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{argument}: got {value} for class {index}, expected finite numbers of at least 0")


def check_values(
    input: Tensor, target: Tensor, weight: Tensor | None, dice_weight: Tensor | None, options: Options
) -> Tensor | None:
    """Weights and labels, where they are seen without waiting; else, for the loss, nan where a label is no class."""
    traced = is_compiling() or torch._C._is_tracing() or torch._C._len_torch_dispatch_stack()
    visible = target.is_cpu and not traced
    if visible:
        for name, weights in zip(weight_names(options), (weight, dice_weight), strict=True):
            if weights is not None and (values := _unwrapped(weights)).ndim == 1:
                check_weight(name, values.tolist())
    if target.ndim == input.ndim and options.pixel == "none":  # shares of classes
        return None
    if visible:
        check_labels(_unwrapped(target), input.shape[1], options.ignore_index)
        return None
    return torch.where(_wrong(target.long(), input.shape[1], options.ignore_index).any(), torch.nan, 0.0)


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise the error that CPU tensors give for a label that is no class."""
    labels = target.long()
    wrong = _wrong(labels, classes, ignore_index)
    if wrong.any():
        position = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"target: got label {labels[tuple(position)].item()} at position {position}, expected 0 to {classes - 1} "
            f"or ignore_index ({ignore_index})"
        )


def _wrong(labels: Tensor, classes: int, ignore_index: int) -> Tensor:
    return (labels != ignore_index) & ((labels < 0) | (labels >= classes))


def _unwrapped(tensor: Tensor) -> Tensor:
    """What a transform has wrapped; under vmap it has a dimension more."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor
