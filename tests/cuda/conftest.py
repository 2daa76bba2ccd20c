"""What "on CUDA" is here: a GPU if there is one, else CPU tensors on the whole CUDA path to an emulated driver."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator

import pytest
import torch

from emulation import Emulator, build_emulator, cpu_tensors_on_cuda
from rarepixel import _cuda


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
    with cpu_tensors_on_cuda(request.getfixturevalue("emulator")):
        yield "cpu"
