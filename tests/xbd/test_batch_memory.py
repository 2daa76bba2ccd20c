"""The memory of batches: refused where it cannot be had, by the name of the argument that asks for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rarepixel as rp
from rarepixel.xbd._batch_memory import BatchMemory


def test_more_than_there_is(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"batch_size: got 1152921504606846976, expected 1 to \d+ for samples of 40 x 40"
    ):
        next(iter(rp.xbd.XBDLoader(root, batch_size=1 << 60, crop=40)))
    most = BatchMemory(1, np.uint8, "numpy", None, 1)
    with pytest.raises(ValueError, match=r"batch_size: got 1, expected 1 to 0 for samples of \d+ x \d+ pixels"):
        most.expect_addressable((1 << 31, 1 << 31))


def test_memory_that_is_refused_leaves_no_second_error(root: Path) -> None:
    """Nothing is told of the memory that never was, besides the argument that is too large."""
    code = """if True:
        import sys, rarepixel as rp
        try:
            next(iter(rp.xbd.XBDLoader(sys.argv[1], batch_size=1 << 48, crop=40, output="numpy")))
        except MemoryError as error:
            print(error)
        """
    ended = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=120)
    bytes_of_batch = (1 << 48) * 7 * 40 * 40
    assert ended.stdout == (
        "batch_size: got 281474976710656, expected fewer samples of 40 x 40 pixels: "
        f"a batch takes {bytes_of_batch} bytes\n"
    )
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pin_memory": "yes"}, TypeError, "pin_memory: got 'yes', expected True or False"),
        (
            {"pin_memory": True, "output": "numpy"},
            ValueError,
            'pin_memory: got True with output "numpy", expected "torch"',
        ),
        ({"pin_memory": True}, ValueError, "pin_memory: got True, expected None or False where CUDA is not available"),
    ],
)
def test_memory_that_cannot_be_pinned(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(error, match=message):
        rp.xbd.XBDLoader(root, **options)
    assert len(list(rp.xbd.XBDLoader(root, pin_memory=False))) == 1


def test_pinned_tensors(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are the same there; without CUDA, memory that is not pinned stands in for it."""
    if not torch.cuda.is_available():
        empty = torch.empty
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory, **options: empty(*shape, **options))
    for normalize in (None, "imagenet"):
        pinned, plain = (
            rp.xbd.XBDLoader(root, batch_size=3, crop=40, normalize=normalize, pin_memory=pin_memory)
            for pin_memory in (True, False)
        )
        for one, other in zip(pinned, plain, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
