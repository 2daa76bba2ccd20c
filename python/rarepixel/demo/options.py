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
# What describes the tiles that the demo makes, and nothing of the user's own.
_OF_MADE_TILES = ("tiles", "size")


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
        return {name: _plain(value) for name, value in asdict(self).items() if name not in _FREE}


DEFAULTS = Options()


def resolve(given: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> Options:
    """The options of a run.

    Args:
        given: options of the command line; None where one was not given.
        saved: :meth:`Options.settings` of the checkpoint to go on from. An option that was not given is taken from
            it; one that was given must agree with it.

    Raises:
        ValueError: a bad value, one that differs from the checkpoint's, or one for made tiles beside --data.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    options = Options(**asked) if saved is None else _from_checkpoint(asked, saved)
    if options.data is not None:
        for name in _OF_MADE_TILES:
            if name in asked:
                expected = "expected it to be left out with --data: it is for tiles that the demo makes"
                raise ValueError(f"{flag(name)}: got {asked[name]}, {expected}")
    return options


def _from_checkpoint(asked: Mapping[str, Any], saved: Mapping[str, Any]) -> Options:
    """What was not asked for is the checkpoint's."""
    checkpoint = Options(output=asked.get("output", DEFAULTS.output)).checkpoint
    for name, value in asked.items():
        if name not in _FREE and _plain(value) != saved[name]:
            raise ValueError(
                f"{flag(name)}: got {_plain(value)}, but {checkpoint} was made with {saved[name]}; "
                "leave the option out, or start over without --resume"
            )
    settings = {field.name for field in fields(Options)} - set(_FREE)
    values = {name: value for name, value in saved.items() if name in settings}
    values["data"] = None if saved["data"] is None else Path(saved["data"])
    return Options(**{**values, **asked})


def _plain(value: Any) -> Any:
    """As the checkpoint holds it: a folder is the same from wherever it is named."""
    return str(value.resolve()) if isinstance(value, Path) else value


def flag(name: str) -> str:
    """The option's name on the command line."""
    return "--" + name.replace("_", "-")
