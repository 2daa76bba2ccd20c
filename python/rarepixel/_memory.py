"""Memory of large gradients on the CPU, kept from one step to the next: see src/cpu/blocks.rs."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _core

# What the C library frees beside other free memory may have it give megabytes back to the system, while somebody waits.
_LARGE = 1 << 16


def empty_like(input: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``torch.empty_like``, in memory that an earlier gradient has left where it is large.

    ``RAREPIXEL_KEEP_MEMORY=0`` turns that off. torch's profiler does not see such memory.
    """
    # Deterministic algorithms fill new tensors.
    if input.nbytes >= _LARGE and input.is_cpu and not torch.are_deterministic_algorithms_enabled():
        kept = _core.kept_like(input, memory_format != torch.contiguous_format)
        if kept is not None:
            return kept
    return torch.empty_like(input, memory_format=memory_format)
