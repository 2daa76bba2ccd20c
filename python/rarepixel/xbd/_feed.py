"""What :class:`XBDDataset` and :class:`XBDLoader` have in common: options checked, tiles handed to Rust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from rarepixel import _core

from . import StrPath, Tile, UnClassified
from .augment import Augment

MeanStd: TypeAlias = tuple[Sequence[float], Sequence[float]]
Sampler: TypeAlias = Literal["uniform", "rare", "best_of_k"]

IMAGENET: MeanStd = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation that torchvision's ImageNet models expect."""


def make_feed(
    tiles: Sequence[Tile],
    crop: int | None,
    augment: bool | Augment,
    normalize: Literal["imagenet"] | MeanStd | None,
    un_classified: UnClassified,
    max_pixels: int,
    seed: int,
    *,
    shuffle: bool = False,
    sampler: Sampler = "uniform",
    class_weights: Sequence[float] = (0.0, 1.0, 1.0, 1.0, 1.0),
    candidates: int = 1,
    survey_file: Path = Path(),
    skip_errors: bool = False,
) -> _core.XBDFeed:
    if not isinstance(augment, Augment):
        augment = Augment(flip_rotate=float(augment))
    return _core.XBDFeed(
        [(tile.pre.image, tile.post.image, tile.post.target, tile.post.label) for tile in tiles],
        crop,
        augment._chances(),
        None if normalize is None else mean_std(normalize),
        un_classified,
        max_pixels,
        seed,
        shuffle,
        sampler,
        class_weights,
        candidates,
        survey_file,
        skip_errors,
    )


def mean_std(normalize: Literal["imagenet"] | MeanStd) -> MeanStd:
    expected = 'expected None, "imagenet" or (mean, std) of three finite numbers each, std above 0'
    pair = IMAGENET if normalize == "imagenet" else normalize
    try:
        mean, std = (tuple(float(value) for value in values) for values in pair)
    except (TypeError, ValueError):
        raise ValueError(f"normalize: got {normalize!r}, {expected}") from None
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(f"normalize: got {normalize!r}, {expected}")
    return mean, std


def survey_file(root: StrPath) -> Path:
    """Where the classes and buildings of a root's tiles are kept."""
    return Path(root) / ".rarepixel-survey.json"
