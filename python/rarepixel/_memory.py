"""Memory of large gradients on the CPU, kept from one step to the next.

The C library gives a block of 32 MiB or more back to the system when it is freed, and the next one comes page by page,
each cleared by the system first: several times the work of the loss itself. A block here goes back to a short list
instead, as soon as torch has freed the last tensor on it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import weakref
from collections import deque
from functools import lru_cache

import torch
from torch import Tensor

# What glibc gives back to the system (DEFAULT_MMAP_THRESHOLD_MAX).
_LARGE = 32 << 20
# How much lies idle at most: the gradients of two maps of a multi-scale loss, or one of a very large image.
_IDLE_BLOCKS = 2
_IDLE_BYTES = 1 << 30

_idle: deque[mmap.mmap] = deque()


def empty_like(input: Tensor, memory_format: torch.memory_format) -> Tensor:
    """``torch.empty_like``, in memory that an earlier gradient has left where it is large.

    ``RAREPIXEL_KEEP_MEMORY=0`` turns that off.
    """
    size = input.numel() * input.element_size()
    if size < _LARGE or not _wanted(input):
        return torch.empty_like(input, memory_format=memory_format)
    block = _take(size)
    view = _view_type(len(block)).from_buffer(block)
    # torch's storage holds the view, and the view the block.
    weakref.finalize(view, _give_back, block).atexit = False
    storage = torch.frombuffer(view, dtype=torch.uint8).untyped_storage()
    strides = torch.empty(input.shape, device="meta", memory_format=memory_format).stride()
    return torch.empty(0, dtype=input.dtype).set_(storage, 0, input.shape, strides)


def _wanted(input: Tensor) -> bool:
    # Deterministic algorithms fill new tensors.
    plain = input.device.type == "cpu" and not torch.are_deterministic_algorithms_enabled()
    return plain and sys.platform == "linux" and os.environ.get("RAREPIXEL_KEEP_MEMORY", "1") != "0"


def _take(size: int) -> mmap.mmap:
    """An idle block that is not much larger, or a new one."""
    for block in list(_idle):
        if size <= len(block) <= size + size // 4:
            try:
                _idle.remove(block)
            except ValueError:  # another thread has it
                continue
            return block
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _give_back(block: mmap.mmap) -> None:
    _idle.append(block)
    while _idle and (len(_idle) > _IDLE_BLOCKS or sum(map(len, _idle)) > _IDLE_BYTES):
        try:
            _idle.popleft()
        except IndexError:  # another thread was there first
            return


@lru_cache(maxsize=64)
def _view_type(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    """A type of views of so many bytes that can be referred to weakly."""
    return type("View", (ctypes.c_char * size,), {})
