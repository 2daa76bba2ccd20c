"""What a result depends on: machine, versions, commit."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

import rarepixel as rp

LIBRARIES = ("torch", "monai", "segmentation-models-pytorch", "kornia", "torchmetrics")


def cpu() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def commit() -> str:
    """The commit, "-dirty" where sources differ from it, "" outside git."""
    dirty = _git("status", "--porcelain", "--", ":/", ":!results")
    return _git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")


def _versions() -> Iterator[str]:
    yield f"rarepixel {rp.__version__}"
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def facts() -> dict[str, str]:
    """As they stand in each row of a CSV."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "cpu": cpu(),
        "cpu_count": str(os.cpu_count()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": "; ".join(_versions()),
    }


def file_name(bench: str) -> str:
    """<date>-<cpu>-<bench>.csv: each bench writes tables of its own into the same folder."""
    name = re.sub(r"\((r|tm|c)\)|@.*", "", cpu().lower())
    return f"{datetime.date.today().isoformat()}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}-{bench}.csv"
