"""Saving and loading a run, so that neither a crash nor Ctrl-C at a bad moment leaves a broken file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

_FORMAT = 3


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The file is replaced as a whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run."""
    write_atomically(path, lambda file: torch.save({"format": _FORMAT, **state}, file))


def load(path: Path) -> dict[str, Any]:
    """Read the state of a run.

    Raises:
        FileNotFoundError: there is none to go on from.
        ValueError: the file is broken or not a checkpoint of the demo.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint to go on from; leave --resume out to start one")
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # torch raises half a dozen types for a broken file
        raise ValueError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"{path}: not a checkpoint of this version of rarepixel demo")
    return state


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """While entered, what the state read from the file lacks or holds wrongly is told with the file's name.

    Raises:
        ValueError: instead of what Python or torch says.
    """
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: not a whole checkpoint of rarepixel demo: it lacks {error}") from error
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path}: not a whole checkpoint of rarepixel demo: {error}") from error
