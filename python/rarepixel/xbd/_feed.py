"""What :class:`XBDDataset` and :class:`XBDLoader` have in common: options checked, tiles handed to Rust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from rarepixel import _core

from .._arguments import number
from . import CLASS_NAMES, StrPath, Tile, UnClassified
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
    return _core.XBDFeed(
        [(tile.pre.image, tile.post.image, tile.post.target, tile.post.label) for tile in tiles],
        crop,
        augmentation(augment)._chances(),
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


def augmentation(augment: bool | Augment) -> Augment:
    if isinstance(augment, Augment):
        return augment
    if not isinstance(augment, bool | np.bool_):
        raise TypeError(f"augment: got {augment!r}, expected True, False or an Augment")
    return Augment(flip_rotate=float(augment))


def weights_of_classes(class_weights: Sequence[float]) -> tuple[float, ...]:
    expected = f"expected {len(CLASS_NAMES)} numbers"
    try:
        weights = tuple(number("class_weights", weight) for weight in class_weights)
    except TypeError:
        raise TypeError(f"class_weights: got {class_weights!r}, {expected}") from None
    if len(weights) != len(CLASS_NAMES):
        raise ValueError(f"class_weights: got {class_weights!r}, {expected}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"class_weights: got {class_weights!r}, expected finite numbers of at least 0")
    return weights


def mean_std(normalize: Literal["imagenet"] | MeanStd) -> MeanStd:
    expected = 'expected None, "imagenet" or (mean, std) of three finite numbers each, std above 0, in float32'
    # An array would compare number by number.
    pair = IMAGENET if isinstance(normalize, str) and normalize == "imagenet" else normalize
    try:
        mean, std = (tuple(number("normalize", value) for value in values) for values in pair)
    except (TypeError, ValueError):
        raise ValueError(f"normalize: got {normalize!r}, {expected}") from None
    if len(mean) != 3 or len(std) != 3 or not _fits_float32(mean, std):
        raise ValueError(f"normalize: got {normalize!r}, {expected}")
    return mean, std


def _fits_float32(mean: tuple[float, ...], std: tuple[float, ...]) -> bool:
    """Whether black and white, normalised as Rust does it, come out finite."""
    with np.errstate(all="ignore"):
        means, stds = np.array([mean, std], dtype=np.float32)
        extremes = (np.array([[0], [1]], dtype=np.float32) - means) / stds
    return bool((stds > 0).all() and np.isfinite([means, stds, *extremes]).all())


def survey_file(root: StrPath) -> Path:
    """Where the classes and buildings of a root's tiles are kept."""
    return Path(root) / ".rarepixel-survey.json"
