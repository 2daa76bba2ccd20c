"""The xView2 score of files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rarepixel.metrics import XView2Metric, XView2Score

from . import read_target

__all__ = ["score_pairs", "score_tiles"]

# Predicted and true damage, then predicted and true localization where they are files of their own.
Pair: TypeAlias = tuple[Path, Path, Path | None, Path | None]


def score_pairs(predictions: Path, targets: Path) -> list[Pair]:
    """The files of each tile, by the names of the targets: the challenge's, else those of xBD's own targets.

    Raises:
        ValueError: ``targets`` has neither.
    """
    challenge = sorted(targets.glob("*_damage_*_target.png"))
    if challenge:
        return [_challenge_pair(predictions, target) for target in challenge]
    own = sorted(targets.glob("*_post_disaster_target.png"))
    if not own:
        names = "*_damage_*_target.png or *_post_disaster_target.png"
        raise ValueError(f"TRUTH: got {targets}, expected a folder with {names}")
    return [_own_pair(predictions, target) for target in own]


def _challenge_pair(predictions: Path, target: Path) -> Pair:
    damage = target.name.replace("_target.png", "_prediction.png")
    localization, localization_target = (name.replace("_damage_", "_localization_") for name in (damage, target.name))
    return predictions / damage, target, predictions / localization, target.with_name(localization_target)


def _own_pair(predictions: Path, target: Path) -> Pair:
    pre = target.with_name(target.name.replace("_post_", "_pre_"))
    predicted = predictions / pre.name
    return (
        predictions / target.name,
        target,
        predicted if predicted.exists() else None,
        pre if pre.exists() else None,
    )


def score_tiles(pairs: Sequence[Pair], progress: Callable[[int], object] | None = None) -> XView2Score:
    """The score of all tiles together; ``progress`` is called with 1 after each.

    Raises:
        OSError, ValueError: a file that cannot be read, is not of the size of its damage target, or is a prediction
            with other values than 0 to 4 (255 is for targets), by name.
    """
    metric = XView2Metric()
    for damage, target, localization, localization_target in pairs:
        truth = read_target(target)
        metric.update(
            _read_map(damage, target, truth.shape, predicted=True),
            truth,
            None if localization is None else _read_map(localization, target, truth.shape, predicted=True),
            None if localization_target is None else _read_map(localization_target, target, truth.shape),
        )
        if progress is not None:
            progress(1)
    return metric.compute()


def _read_map(path: Path, target: Path, shape: tuple[int, ...], predicted: bool = False) -> npt.NDArray[np.uint8]:
    """A map of the size of its tile's damage target."""
    labels = read_target(path)
    if labels.shape != shape:
        (height, width), (target_height, target_width) = labels.shape, shape
        expected = f"expected {target_width} x {target_height} as {target} has"
        raise ValueError(f"{path}: {width} x {height} pixels, {expected}")
    if predicted and labels.max(initial=0) > 4:
        y, x = np.argwhere(labels > 4)[0]
        raise ValueError(f"{path}: pixel ({y}, {x}) is {labels[y, x]}, expected a class index 0 to 4 in a prediction")
    return labels
