"""torch's tensors as Rust reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _core

# Before any fork: see src/cpu/team.rs.
_core.join_torch()
# Where torch has it, reading a tensor costs no call of Python.
if (_exchange := getattr(Tensor, "__dlpack_c_exchange_api__", None)) is not None:
    _core.read_tensors_by(Tensor, _exchange)


def foldable(tensor: Tensor, leading: int) -> Tensor:
    """The tensor, or a contiguous copy where its spatial dimensions do not fold into one stride."""
    tensor = tensor.resolve_neg()  # its memory may hold the negative
    if tensor.is_contiguous() or _core.folds(tensor.shape, tensor.stride(), leading):
        return tensor
    return tensor.contiguous()


def memory_format(input: Tensor) -> torch.memory_format:
    """How the gradient lies in memory: as the input where that is channels_last, else contiguous."""
    if not input.is_contiguous():
        for ndim, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
            if input.ndim == ndim and input.is_contiguous(memory_format=memory_format):
                return memory_format
    return torch.contiguous_format


def compute_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def expect_logits(input: Tensor) -> None:
    """That there are samples and classes."""
    if not 2 <= input.ndim <= 5:
        raise ValueError(
            f"input: got shape {list(input.shape)}, expected (N, C, *spatial) with 0 to 3 spatial dimensions"
        )


def prepared(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Operands as Rust reads them: foldable, and a one-hot or soft target in the type of the computation."""
    expect_logits(input)
    if target.ndim == input.ndim:
        return foldable(input, 2), foldable(target.to(compute_dtype(input)), 2)
    return foldable(input, 2), foldable(target, 1)


def on_cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda
