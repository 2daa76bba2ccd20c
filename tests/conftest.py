"""What holds for every test file."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# CI asks whether a change broke something: it draws the same examples every time. At a desk every run draws new ones.
settings.register_profile("ci", derandomize=True)
settings.register_profile("desk", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

TEMPORARY = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """One folder for what examples, notebooks and torchrun's processes leave behind: hundreds of folders a run."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own folders outlive a run, as ever
    folder = tempfile.mkdtemp(prefix="rarepixel-tests-")
    config.stash[TEMPORARY] = Path(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[TEMPORARY], ignore_errors=True)
