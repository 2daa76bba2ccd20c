"""The emulator catches what it is there to catch: defects planted in the compiled kernels, by way of the cache.

The cache of one emulated device is filled with the shipped kernels, changed, and read by the next device.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rarepixel as rp
from rarepixel import _cuda
from support import replaced

DIGEST = 32
SECOND = 128  # from a fresh device to the one that reads what it left in the cache
pytestmark = pytest.mark.usefixtures("emulator")


def run(classes: int, dtype: torch.dtype = torch.float32) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(2, classes, 32, 48, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(classes, (2, 32, 48), generator=generator)
    rp.dice_focal_loss(logits, labels).backward()
    rp.metrics.ConfusionMatrix(classes).update(logits, labels)


def plant(folder: Path, kernel: str, change: Callable[[str], str]) -> None:
    """Change the PTX of a kernel in the cache, with the right hash behind it."""
    entries = [path for path in folder.glob("*.ptx") if f".entry {kernel}(".encode() in path.read_bytes()]
    assert len(entries) == 1
    text = entries[0].read_bytes()[:-DIGEST].decode()
    changed = change(text)
    assert changed != text, "nothing was planted"
    entries[0].write_bytes(changed.encode() + hashlib.sha256(changed.encode()).digest())


def caught(
    kernel: str,
    change: Callable[[str], str],
    operands: tuple[int, torch.dtype],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: int,
) -> str:
    monkeypatch.setenv("RAREPIXEL_CACHE_DIR", str(folder))
    run(*operands)  # fills the cache
    plant(folder, kernel, change)
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (device + SECOND, 0))
    with pytest.raises(RuntimeError) as error:
        run(*operands)
    return str(error.value)


BARRIER = r"bar\.sync\s+0;"
# Of float32 logits in the first pass, and into shared memory in the second.
VECTOR_LOAD = r"(ld\.global\.nc\.v4\.\w+\s+\{[^}]*\},\s*\[%rd\d+)(?:\+\d+)?\]"
COPY = r"(cp\.async\.cg\.shared\.global \[%r\d+\]), \[(%rd\d+)\], 16;"


def asked_for_at_the_end(text: str) -> str:
    """A kernel that asks for its first logits once more before it ends."""
    copy = re.search(COPY, text)
    assert copy
    return re.sub(r"\bret;", f"{copy[0]} ret;", text)


# The kernel, the defect, the number of classes (with or without a dtype: float32), and what the emulator says.
DEFECTS = {
    # Of few classes, and of more.
    **{
        f"dropped barrier {i} with {classes} classes": (
            "reduce",
            replaced(BARRIER, "", i),
            classes,
            "race: |uninitialised",
        )
        for classes, barriers in ((5, 2), (9, 6))
        for i in range(barriers)
    },
    "dropped barrier in the finish": ("finish", replaced(BARRIER, "", 0), 400, "race: "),
    "dropped barrier in the finish, whose sums shared memory has room for": (
        "finish",
        replaced(BARRIER, "", 0),
        5,
        "uninitialised shared memory",
    ),
    "a kernel that does not wait for the one before": (
        "finish",
        replaced(r"griddepcontrol\.wait;", "", 0),
        5,
        "before griddepcontrol.wait",
    ),
    "dropped barrier in the gradient": ("gradient", replaced(BARRIER, "", 0), 5, "(race: |uninitialised)"),
    "dropped warp barrier": ("reduce", replaced(r"bar\.warp\.sync\s+-1;", "", 0), 40, "race: "),
    "out of bounds": (
        "reduce",
        replaced(VECTOR_LOAD, r"\1+4096]", -1),
        5,
        "ILLEGAL_ADDRESS.*read outside of every tensor",
    ),
    "a copy from out of bounds": (
        "gradient",
        replaced(COPY, r"add.s64 \2, \2, 4096; \1, [\2], 16;", 4),
        5,
        "ILLEGAL_ADDRESS.*read outside of every tensor",
    ),
    "a misaligned copy": (
        "gradient",
        replaced(COPY, r"add.s64 \2, \2, 4; \1, [\2], 16;", 0),
        5,
        "MISALIGNED_ADDRESS",
    ),
    **{
        f"a copy that nobody waits for in the {kernel} of {dtype}": (
            kernel,
            replaced(r"cp\.async\.wait_all;", "", 0),
            (5, dtype),
            "race: an asynchronous copy",
        )
        for kernel, dtype in (("gradient", torch.float32), ("gradient", torch.bfloat16), ("reduce", torch.bfloat16))
    },
    "a copy that nobody takes": ("gradient", asked_for_at_the_end, 5, "ends while its copy is under way"),
    "dropped barrier behind the last pixels": ("reduce", replaced(BARRIER, "", 1), (5, torch.bfloat16), "race: "),
    "out of bounds of shared memory": (
        "reduce",
        replaced(r"(ld\.shared\.\w+\s+%\w+, \[%r\d+)[^\]]*\]", r"\1+65536]", 0),
        5,
        "ILLEGAL_ADDRESS.*outside of shared memory",
    ),
    "misaligned": ("reduce", replaced(VECTOR_LOAD, r"\1+4]", 0), 5, "MISALIGNED_ADDRESS"),
    "uninitialised shared memory": (
        "reduce",
        replaced(r"st\.shared\.\w+\s+\[[^\]]*\], (?:0|0f00000000);", "", 0),
        9,
        "uninitialised shared memory",
    ),
    "wrong mask": (
        "reduce",
        replaced(r"(shfl\.sync\.bfly\.b32[^;]*), -1;", r"\1, 2147483647;", 0),
        5,
        "its mask does not name",
    ),
    "dropped barrier in the confusion matrix": ("confusion", replaced(BARRIER, "", -1), 5, "race: "),
    "an addition that is not atomic": (
        "confusion",
        replaced(r"(?:atom|red)(\.shared)\.add(\.u32)\s+(?:%r\d+, )?(\[[^\]]*\], )", r"st\1\2 \3", 1),
        5,
        "race: ",
    ),
    "an addition to global memory that is not atomic": (
        "confusion",
        replaced(r"(?:atom|red)(\.global)\.add(\.u64)\s+(?:%rd\d+, )?(\[[^\]]*\], )", r"st\1\2 \3", -1),
        5,
        "race: ",
    ),
    "blocks that write one place": (
        "reduce",
        replaced(r"(mov\.u32\s+%r\d+), %ctaid\.x;", r"\1, 0;", 0),
        5,
        "race: write",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_are_caught(
    defect: str, fresh_device: int, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, change, operands, message = DEFECTS[defect]
    operands = operands if isinstance(operands, tuple) else (operands, torch.float32)
    text = caught(kernel, change, operands, tmp_path, monkeypatch, fresh_device)
    assert re.search(message, text), text


def test_an_entry_that_the_driver_refuses_is_compiled_again(
    fresh_device: int, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here for an instruction that the emulator does not know: it never skips one."""
    monkeypatch.setenv("RAREPIXEL_CACHE_DIR", str(tmp_path / "cache"))
    run(5)
    plant(tmp_path / "cache", "reduce", replaced(r"add\.f32", "frobnicate.f32", 0))
    monkeypatch.setattr(_cuda, "_place", lambda tensor: (fresh_device + SECOND, 0))
    monkeypatch.setenv("EMULATOR_LOG", str(tmp_path / "calls"))
    run(5)
    assert "unknown instruction: frobnicate.f32" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("classes", [5, 9])
def test_every_barrier_was_dropped_once(
    classes: int, fresh_device: int, cuda: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAREPIXEL_CACHE_DIR", str(tmp_path))
    run(classes)
    (text,) = [
        path.read_text(errors="ignore")
        for path in tmp_path.glob("*.ptx")
        if ".entry reduce(" in path.read_text(errors="ignore")
    ]
    assert len(re.findall(BARRIER, text)) == sum(
        name.startswith("dropped barrier ") and name.endswith(f"with {classes} classes") for name in DEFECTS
    )
