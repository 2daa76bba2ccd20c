"""Which terms a loss has and their options, without torch: what the torch and the NumPy functions have in common."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import _core
from ._arguments import boolean, is_tensor, number


class Options(NamedTuple):
    """Which terms a loss has and their options: the plain arguments of the operator, in its order."""

    pixel: str = "none"
    lambda_pixel: float = 1.0
    gamma: float = 2.0
    pt: str = "softmax"
    label_smoothing: float = 0.0
    region: str = "none"
    lambda_region: float = 1.0
    alpha: float = 0.5  # of Tversky; focal's alpha are class weights, which are no plain argument
    beta: float = 0.5
    smooth: float = 1e-6
    average: str = "micro"
    per_sample: bool = False
    include_background: bool = True
    absent: str = "count"
    ignore_index: int = -100
    reduction: str = "mean"
    target_mode: str = "exact"
    align_corners: bool = False


def spec(options: Options) -> _core.LossSpec:
    """The options as Rust takes them; the error names the one that is wrong."""
    try:
        return _spec(options)
    except (TypeError, OverflowError):
        _expect_types(options)
        raise


@lru_cache(maxsize=256)
def _spec(options: Options) -> _core.LossSpec:
    return _core.LossSpec(*alike(options))


def alike(options: Options) -> Options:
    """With 1 as True and 255.0 as 255: the cache takes them for the same, so they always are."""
    return Options(*map(_alike, options, Options._field_defaults.values()))


def _alike(value: Any, default: Any) -> Any:
    if isinstance(default, bool) and isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# What users call the factors before the terms.
_NAMES = {"lambda_pixel": "lambda_focal", "lambda_region": "lambda_dice"}


def _expect_types(options: Options) -> None:
    """Raises for the first option of a wrong type, if there is one."""
    for field, value in options._asdict().items():
        name, kind = _NAMES.get(field, field), type(Options._field_defaults[field])
        if kind is bool:
            boolean(name, value)
        elif kind is float:
            number(name, value)
        elif kind is str and not isinstance(value, str):
            raise TypeError(f"{name}: got {value!r}, expected a string")
        elif kind is int and not hasattr(value, "__index__"):
            raise TypeError(f"{name}: got {value!r}, expected an integer")
        elif kind is int and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name}: got {value}, expected an integer of 64 bits")


def weight_names(options: Options) -> tuple[str, str]:
    """What users call the weights of the pixel term and of the region term."""
    return "alpha" if options.pixel == "focal" else "weight", "weight" if options.pixel == "none" else "dice_weight"


def plain(name: str, value: Any) -> Any:
    """A number of torch or NumPy as one of Python's: it is read now, and does not change when that one does."""
    if type(value) in (bool, int, float, str):
        return value
    if _has_derivative(value):
        expected = "a constant: the losses give no gradient for it"
        raise ValueError(f"{name}: got a tensor that requires grad, expected {expected}")
    try:
        number = value.item() if hasattr(value, "item") and not isinstance(value, np.ma.MaskedArray) else value
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {value!r}, expected one value") from error
    # The cache would take them for the real numbers that they are equal to.
    if isinstance(number, complex | np.ma.MaskedArray):
        raise TypeError(f"{name}: got {value!r}, expected a number")
    return number


def _has_derivative(value: Any) -> bool:
    """Whether somebody asks for the derivative by a tensor, in reverse or forward mode."""
    if not is_tensor(value):
        return False
    from torch.autograd import forward_ad

    return value.requires_grad or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(value).tangent is not None)


def cross_entropy(ignore_index: int, reduction: str, label_smoothing: float) -> Options:
    """Options of the loss of that name."""
    return Options(
        pixel="cross_entropy",
        label_smoothing=plain("label_smoothing", label_smoothing),
        ignore_index=plain("ignore_index", ignore_index),
        reduction=reduction,
    )


def focal_loss(gamma: float, ignore_index: int, reduction: str, pt: str) -> Options:
    """Options of the loss of that name."""
    return Options(
        pixel="focal",
        gamma=plain("gamma", gamma),
        pt=pt,
        ignore_index=plain("ignore_index", ignore_index),
        reduction=reduction,
    )


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
        smooth=plain("smooth", smooth),
        average=average,
        per_sample=plain("per_sample", per_sample),
        include_background=plain("include_background", include_background),
        absent=absent,
        ignore_index=plain("ignore_index", ignore_index),
    )


def tversky_loss(
    alpha: float,
    beta: float,
    smooth: float,
    average: str,
    per_sample: bool,
    include_background: bool,
    absent: str,
    ignore_index: int,
) -> Options:
    """Options of the loss of that name."""
    dice = dice_loss(smooth, average, per_sample, include_background, absent, ignore_index)
    return dice._replace(region="tversky", alpha=plain("alpha", alpha), beta=plain("beta", beta))


def combined(pixel: Options, region: Options, lambda_pixel: float, lambda_region: float) -> Options:
    """The pixel term of one and the region term of the other."""
    return pixel._replace(
        lambda_pixel=plain("lambda_focal", lambda_pixel),
        region=region.region,
        lambda_region=plain("lambda_dice", lambda_region),
        alpha=region.alpha,
        beta=region.beta,
        smooth=region.smooth,
        average=region.average,
        per_sample=region.per_sample,
        include_background=region.include_background,
        absent=region.absent,
    )


def truth(name: str, value: Any) -> bool:
    """True or False, also as 1 or 0."""
    return boolean(name, _alike(plain(name, value), False))


def upsampled(chosen: Options, upsample: bool, align_corners: bool) -> Options:
    """The options, for logits that are brought to the size of the target if `upsample` says so."""
    if upsample is False and align_corners is False:
        return chosen
    align_corners, upsampled = truth("align_corners", align_corners), truth("upsample", upsample)
    return chosen._replace(target_mode="upsample_logits", align_corners=align_corners) if upsampled else chosen
