"""The emulated CUDA driver, and CPU tensors in the place of CUDA's.

The emulator (tests/cuda/emulator) is compiled here and loaded before anything asks for a driver; nothing in the package
knows of it. What it shows and what it does not is in tests/cuda/README.md.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rarepixel import _cuda, _tensors

SOURCES = Path(__file__).parent / "cuda" / "emulator"
FLAGS = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-ffp-contract=off", "-frounding-math", "-fPIC", "-shared"]
# What _cuda hands to the driver: each call describes the tensors that its kernels may touch.
CALLS = ("forward", "backward", "class_counts", "resize", "confusion_matrix")


def build_emulator(folder: Path) -> Path:
    """The emulated driver as a library, compiled unless it was before from the same sources."""
    sources = sorted(SOURCES.glob("*.cpp"))
    text = b"".join(path.read_bytes() for path in [*sources, *sorted(SOURCES.glob("*.h"))])
    library = folder / f"emulator-{hashlib.sha256(text).hexdigest()[:16]}.so"
    if not library.exists():
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = ["g++", *FLAGS, "-Wl,-soname,libcuda.so", "-o", str(unfinished), *map(str, sources)]
        subprocess.run(command, check=True)
        unfinished.rename(library)
    return library


class Emulator:
    """The emulated driver, and what its kernels may touch."""

    def __init__(self, library: Path) -> None:
        self.library = library
        self._driver = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)

    def allow(self, tensor: torch.Tensor) -> None:
        """Let kernels touch the elements of the tensor: from the first to the last, whatever lies between."""
        if tensor.numel():
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            extent = 1 + sum((size - 1) * stride for size, stride in steps)
            address, size = tensor.data_ptr(), extent * tensor.element_size()
            self._driver.emulator_allow(ctypes.c_uint64(address), ctypes.c_uint64(size))

    def current_context(self) -> int | None:
        """The context that is current for this thread."""
        context = ctypes.c_void_p()
        self._driver.cuCtxGetCurrent(ctypes.byref(context))
        return context.value

    def forget(self) -> None:
        """Take all of it back."""
        self._driver.emulator_forget()


@contextmanager
def cpu_tensors_on_cuda(emulator: Emulator) -> Iterator[None]:
    """CPU tensors take the whole CUDA path."""

    def given(tensor: torch.Tensor) -> torch.Tensor:
        emulator.allow(tensor)
        return tensor

    def alone(call: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: object, **named: object) -> Any:
            emulator.forget()
            return call(*arguments, **named)

        return work

    deterministic = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tensors, "on_cuda", lambda tensor: True)
        patch.setattr(_cuda, "given", given)
        patch.setattr(_cuda, "_place", lambda tensor: (0, 0))
        for name in CALLS:
            patch.setattr(_cuda, name, alone(getattr(_cuda, name)))
        torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with nan
        yield
        torch.use_deterministic_algorithms(deterministic)
