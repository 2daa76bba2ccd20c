"""Every Python block of the README runs, in order, in one namespace; its diff applies to code that runs."""

from __future__ import annotations

import re

import pytest

from support import PROJECT

README = (PROJECT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_every_python_block_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for language, block in BLOCKS if language == "python"]
    assert blocks
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), namespace)


def test_the_swap_runs() -> None:
    """The lines that the diff adds or keeps, as a script."""
    torch = pytest.importorskip("torch")
    diffs = [block for language, block in BLOCKS if language == "diff"]
    assert diffs
    for number, diff in enumerate(diffs, start=1):
        after = "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))
        namespace: dict[str, object] = {"class_weights": torch.tensor([1.0, 5.0, 20.0, 20.0, 20.0])}
        exec(compile(after, f"README.md, diff {number}", "exec"), namespace)


def test_make_targets_exist() -> None:
    """Each `make target` that the README names is one of the Makefile's."""
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", README, flags=re.MULTILINE))
    assert named
    assert named <= targets
