"""What "on CUDA" is here: a GPU if there is one, else CPU tensors on the whole CUDA path to an emulated driver.

The emulator (tests/cuda/emulator) is compiled here and loaded before anything asks for a driver; nothing in the package
knows of it. What it shows and what it does not is in tests/cuda/README.md.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from rarepixel import _cuda, ops

SOURCES = Path(__file__).parent / "emulator"
FLAGS = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-ffp-contract=off", "-frounding-math", "-fPIC", "-shared"]


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


def emulated() -> bool:
    return not torch.cuda.is_available()


@pytest.fixture(scope="session")
def emulator(pytestconfig: pytest.Config) -> Emulator:
    """The driver of this process; kernels are cached beside it, so that a second run of the tests compiles nothing."""
    if not emulated():
        pytest.skip("there is a GPU: it runs these tests itself")
    if shutil.which("g++") is None or _cuda.load_nvrtc() is None:
        pytest.skip("the emulator needs g++ and the NVRTC that CUDA builds of torch bring")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("rarepixel-emulator")
    os.environ["RAREPIXEL_CACHE_DIR"] = str(folder / "kernels")
    return Emulator(build_emulator(folder))


@pytest.fixture
def fresh_device(monkeypatch: pytest.MonkeyPatch, cuda: str, emulator: Emulator) -> int:
    """An emulated device that no kernel was loaded on, for tests that look at what is loaded."""
    number = next(_numbers)
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (number, 0))
    return number


_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cuda(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where tests put tensors: "cuda", or "cpu" with the CUDA path in the place of the CPU's."""
    if not emulated():
        yield "cuda"
        return
    emulator: Emulator = request.getfixturevalue("emulator")
    plain = ops._described

    def described(tensor: torch.Tensor) -> tuple[int, str, Sequence[int], Sequence[int], object]:
        emulator.allow(tensor)
        return plain(tensor)

    def forward(*arguments: object) -> None:
        emulator.forget()
        plain_forward(*arguments)

    def backward(*arguments: object) -> None:
        emulator.forget()
        plain_backward(*arguments)

    plain_forward, plain_backward = _cuda.forward, _cuda.backward
    deterministic = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_on_cuda", lambda tensor: True)
        patch.setattr(ops, "_described", described)
        patch.setattr(_cuda, "_place", lambda tensor: (0, 0))
        patch.setattr(_cuda, "forward", forward)
        patch.setattr(_cuda, "backward", backward)
        torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with nan
        yield "cpu"
        torch.use_deterministic_algorithms(deterministic)
