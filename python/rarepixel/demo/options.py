"""The demo's settings: what was asked for, what a checkpoint says, and the defaults, in that order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

LOSSES = ("rarepixel", "torch")

_AT_LEAST = {"epochs": 1, "tiles": 2, "crop": 32, "batch_size": 1, "workers": 0, "seed": 0}
# What XBDDataset takes.
_LARGEST_SEED = (1 << 63) - 1
# What may differ between a run and the run that goes on from its checkpoint.
_FREE = ("output", "workers")


@dataclass(frozen=True)
class Options:
    """Everything that a run depends on."""

    output: Path = Path("demo-output")
    data: Path | None = None
    losses: str = "rarepixel"
    multi_scale: bool = False
    epochs: int = 10
    tiles: int = 192
    size: int = 256
    crop: int = 192
    batch_size: int = 8
    lr: float = 4e-3
    seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{flag(name)}: got {getattr(self, name)}, expected at least {least}")
        if self.seed > _LARGEST_SEED:
            raise ValueError(f"--seed: got {self.seed}, expected at most {_LARGEST_SEED}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"--lr: got {self.lr}, expected a number above 0 that is finite")
        if self.losses not in LOSSES:
            raise ValueError(f"--losses: got {self.losses}, expected {' or '.join(LOSSES)}")
        if self.data is None and self.crop > self.size:
            raise ValueError(f"--crop: got {self.crop}, expected at most --size, which is {self.size}")

    @property
    def checkpoint(self) -> Path:
        """The file that a run saves to and goes on from."""
        return self.output / "checkpoint.pt"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a run, as plain values for the checkpoint."""
        values = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return values | {"data": None if self.data is None else str(self.data.resolve())}


DEFAULTS = Options()


def resolve(given: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> Options:
    """The options of a run.

    Args:
        given: options of the command line; None where one was not given.
        saved: :meth:`Options.settings` of the checkpoint to go on from. An option that was not given is taken from
            it; one that was given must agree with it.

    Raises:
        ValueError: a bad value, or one that differs from the checkpoint's.
    """
    options = Options(**{name: value for name, value in given.items() if value is not None})
    if saved is None:
        return options
    for name, value in options.settings().items():
        if given.get(name) is not None and value != saved[name]:
            raise ValueError(
                f"{flag(name)}: got {value}, but {options.checkpoint} was made with {saved[name]}; "
                "leave the option out, or start over without --resume"
            )
    free = {name: getattr(options, name) for name in _FREE}
    data = None if saved["data"] is None else Path(saved["data"])
    known = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in saved.items() if name in known} | free | {"data": data})


def flag(name: str) -> str:
    """The option's name on the command line."""
    return "--" + name.replace("_", "-")
