"""Which terms a loss has and their options, without torch: what the torch and the NumPy functions have in common."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from . import _core


class Options(NamedTuple):
    """Which terms a loss has and their options: the plain arguments of the operator, in its order."""

    pixel: str = "none"
    lambda_pixel: float = 1.0
    gamma: float = 2.0
    pt: str = "softmax"
    label_smoothing: float = 0.0
    region: str = "none"
    lambda_region: float = 1.0
    smooth: float = 1e-6
    average: str = "micro"
    per_sample: bool = False
    include_background: bool = True
    absent: str = "count"
    ignore_index: int = -100
    reduction: str = "mean"
    target_mode: str = "exact"
    align_corners: bool = False


@lru_cache(maxsize=256)
def spec(options: Options) -> _core.LossSpec:
    """The options as Rust takes them; ValueError names the one that is wrong."""
    return _core.LossSpec(*options)


def cross_entropy(ignore_index: int, reduction: str, label_smoothing: float) -> Options:
    """Options of the loss of that name."""
    return Options(
        pixel="cross_entropy",
        label_smoothing=float(label_smoothing),
        ignore_index=ignore_index,
        reduction=reduction,
    )


def focal_loss(gamma: float, ignore_index: int, reduction: str, pt: str) -> Options:
    """Options of the loss of that name."""
    return Options(pixel="focal", gamma=float(gamma), pt=pt, ignore_index=ignore_index, reduction=reduction)


def dice_loss(
    smooth: float,
    average: str,
    per_sample: bool,
    include_background: bool,
    absent: str,
    ignore_index: int,
) -> Options:
    """Options of the loss of that name."""
    return Options(
        region="dice",
        smooth=float(smooth),
        average=average,
        per_sample=per_sample,
        include_background=include_background,
        absent=absent,
        ignore_index=ignore_index,
    )


def dice_focal_loss(focal: Options, dice: Options, lambda_focal: float, lambda_dice: float) -> Options:
    """The focal term of one and the Dice term of the other."""
    return focal._replace(
        lambda_pixel=float(lambda_focal),
        region="dice",
        lambda_region=float(lambda_dice),
        smooth=dice.smooth,
        average=dice.average,
        per_sample=dice.per_sample,
        include_background=dice.include_background,
        absent=dice.absent,
    )


def upsampled(chosen: Options, upsample: bool, align_corners: bool) -> Options:
    """The options, for logits that are brought to the size of the target if `upsample` says so."""
    return chosen._replace(target_mode="upsample_logits", align_corners=align_corners) if upsample else chosen
