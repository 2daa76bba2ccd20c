"""The memory of a loader's batches: arrays in memory that is used again, or pinned tensors."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._arguments import boolean


class BatchMemory:
    """Makes the memory of one batch after another; up to ``kept`` pieces that are free wait for the next."""

    def __init__(
        self,
        batch_size: int,
        dtype: npt.DTypeLike,
        output: Literal["torch", "numpy"] | None,
        pin_memory: bool | None,
        kept: int,
    ) -> None:
        self._batch_size = batch_size
        self._dtypes = [np.dtype(dtype), np.dtype(dtype), np.dtype(np.uint8)]
        self._output = output or ("torch" if _has_torch() else "numpy")
        self._pin_memory = None if pin_memory is None else boolean("pin_memory", pin_memory)
        if self._pin_memory:
            self._expect_pinnable()
        self._pool: deque[npt.NDArray[np.uint8]] = deque(maxlen=min(kept, sys.maxsize))

    def expect_addressable(self, size: tuple[int, int]) -> None:
        """Refuses batches of samples of ``size`` (height, width) that no memory could ever hold."""
        sample = sum(self._bytes(size)) // self._batch_size
        if self._batch_size * sample > sys.maxsize:
            height, width = size
            expected = f"1 to {sys.maxsize // sample} for samples of {width} x {height} pixels"
            raise ValueError(f"batch_size: got {self._batch_size}, expected {expected}")

    def make(self, size: tuple[int, int]) -> tuple[tuple[Any, ...], list[tuple[int, int]]]:
        """A batch of samples of ``size`` (height, width), and the address and the bytes of each of its parts."""
        if self._pins_memory():
            import torch

            # torch keeps freed pinned memory for the next batch, and waits for copies from it that are still under way.
            tensors = [
                torch.empty(shape, dtype=getattr(torch, dtype.name), device="cpu", pin_memory=True)
                for shape, dtype in zip(self._shapes(size), self._dtypes, strict=True)
            ]
            return tuple(tensors), [(tensor.data_ptr(), tensor.nbytes) for tensor in tensors]
        arrays = self._arrays(size)
        memory = [(array.ctypes.data, array.nbytes) for array in arrays]
        if self._output == "torch":
            import torch

            return tuple(map(torch.from_numpy, arrays)), memory
        return tuple(arrays), memory

    def _shapes(self, size: tuple[int, int]) -> list[tuple[int, ...]]:
        return [(self._batch_size, 3, *size)] * 2 + [(self._batch_size, *size)]

    def _bytes(self, size: tuple[int, int]) -> list[int]:
        # Not numpy's product, which overflows.
        shapes = self._shapes(size)
        return [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, self._dtypes, strict=True)]

    def _arrays(self, size: tuple[int, int]) -> list[npt.NDArray[Any]]:
        """Arrays in one piece of memory that is used again when the last of them is gone."""
        sizes = self._bytes(size)
        memory = np.asarray(_Slot(self._pool, self._free(sum(sizes), size)))
        parts = np.split(memory, np.cumsum(sizes)[:-1])
        shapes = self._shapes(size)
        return [part.view(dtype).reshape(shape) for part, shape, dtype in zip(parts, shapes, self._dtypes, strict=True)]

    def _free(self, total: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        # Passes of several threads take from it at once.
        with contextlib.suppress(IndexError):
            memory = self._pool.pop()
            # Whole tiles may have another size than in an earlier pass.
            if memory.size == total:
                return memory
        try:
            return np.empty(total, dtype=np.uint8)
        except MemoryError:
            height, width = size
            expected = f"fewer samples of {width} x {height} pixels: a batch takes {total} bytes"
            raise MemoryError(f"batch_size: got {self._batch_size}, expected {expected}") from None

    def _pins_memory(self) -> bool:
        if self._output == "numpy":
            return False
        if self._pin_memory is None:
            import torch

            return torch.cuda.is_available()
        return self._pin_memory

    def _expect_pinnable(self) -> None:
        if self._output == "numpy":
            raise ValueError('pin_memory: got True with output "numpy", expected "torch": only its tensors are pinned')
        import torch

        if not torch.cuda.is_available():
            raise ValueError("pin_memory: got True, expected None or False where CUDA is not available")


class _Slot:
    """The memory of one batch, which goes back to the pool when the last array over it is gone."""

    def __init__(self, pool: deque[npt.NDArray[np.uint8]], memory: npt.NDArray[np.uint8]) -> None:
        self._pool, self._memory = pool, memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._pool.append(self._memory)


def _has_torch() -> bool:
    try:
        import torch  # noqa: F401 - whether it can be imported is the question
    except ImportError:
        return False
    return True
