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
CPUINFO = Path("/proc/cpuinfo")


def cpu() -> str:
    """The processor's name, with the numbers of its kind: in a virtual machine the name may be that of several."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    facts = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
    name = facts.get("model name") or platform.processor() or platform.machine()
    kind = ", ".join(f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts)
    return f"{name} ({kind})" if kind else name


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
        "date": date(),
        "commit": commit(),
        "cpu": cpu(),
        "cpu_count": str(os.cpu_count()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": "; ".join(_versions()),
    }


def date() -> str:
    """To the minute; the day comes first."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M UTC}"


def file_name(bench: str, device: str | None = None) -> str:
    """<day>-<device>-<bench>.csv, the device being the processor if no other is told."""
    name = re.sub(r"\((r|tm|c)\)|@ *[\d.]+ghz", "", (device or cpu()).lower())
    return f"{date().split()[0]}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}-{bench}.csv"
