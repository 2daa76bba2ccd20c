"""Class weights from pixel counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arguments import doubles, number

__all__ = ["class_weights"]

_Doubles = NDArray[np.float64]


# Mean and median without a sum of counts, which may be infinite where they are not.
def _mean(counts: _Doubles) -> float:
    largest = counts.max()
    return float(largest * (counts / largest).mean())


def _median(counts: _Doubles) -> float:
    ordered = np.sort(counts)
    low, high = ordered[(len(counts) - 1) // 2], ordered[len(counts) // 2]
    return float(low + (high - low) / 2)


def _effective_number(counts: _Doubles, beta: float) -> _Doubles:
    # 1 - beta^n by expm1: beta is close to 1 and n large.
    effective = -np.expm1(counts * np.log(beta))
    # In units of the largest weight, so that their mean is finite.
    weights: _Doubles = effective.min() / effective
    weights /= weights.mean()
    return weights


_METHODS: dict[str, Callable[[_Doubles, float], _Doubles]] = {
    "inverse_frequency": lambda counts, _: _mean(counts) / counts,
    "median_frequency": lambda counts, _: _median(counts) / counts,
    "effective_number": _effective_number,
    "sqrt_inverse": lambda counts, _: np.sqrt(_mean(counts)) / np.sqrt(counts),
}


def class_weights(counts: ArrayLike, method: str = "inverse_frequency", *, beta: float = 0.999999) -> _Doubles:
    """Weights for the classes from how many pixels each has, for ``weight=`` and ``alpha=`` of the losses.

    With n_c pixels of class c, n in all, and C classes that occur::

        "inverse_frequency":  n / (C n_c)
        "sqrt_inverse":       sqrt(n / (C n_c))
        "median_frequency":   median(n_1, ..., n_C) / n_c
        "effective_number":   (1 - beta) / (1 - beta^n_c), then scaled to a mean of 1

    A class without a pixel gets weight 0 and is not among the C: it cannot be learnt, and infinity would spoil the
    others.

    Args:
        counts: pixels of each class, (C,), finite and at least 0; e.g. from :func:`rarepixel.xbd.pixel_counts`.
        method: one of the names above.
        beta: of ``"effective_number"``, in (0, 1). Cui et al. use 0.9 to 0.9999 for image counts; pixels are many
            more, so the default is nearer to 1.

    Returns:
        float64, (C,).

    Raises:
        TypeError: for counts or beta that are no numbers.
        ValueError: for an unknown method, counts or beta out of range, or counts so far apart that a weight would be
            infinite.

    Example:
        >>> import rarepixel as rp
        >>> rp.class_weights([96_000, 2_700, 100, 100, 100]).round(2).tolist()
        [0.21, 7.33, 198.0, 198.0, 198.0]
        >>> rp.class_weights([96_000, 2_700, 100, 100, 100], "sqrt_inverse").round(2).tolist()
        [0.45, 2.71, 14.07, 14.07, 14.07]

    Source: median frequency: Eigen and Fergus, ICCV 2015; effective number: Cui et al., CVPR 2019.
    """
    values = doubles("counts", counts, "one finite number of at least 0 for each class")
    if not isinstance(method, str) or method not in _METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(map(repr, _METHODS))}")
    beta = number("beta", beta)
    if not 0 < beta < 1:
        raise ValueError(f"beta: got {beta}, expected a number in (0, 1)")
    if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"counts: got {counts!r}, expected one finite number of at least 0 for each class")
    present = values > 0
    if not present.any():
        raise ValueError(f"counts: got {counts!r}, expected a pixel of at least one class")
    weights = np.zeros_like(values)
    with np.errstate(all="ignore"):
        weights[present] = _METHODS[method](values[present], beta)
    if not np.isfinite(weights).all():
        raise ValueError(f"counts: got {counts!r}, expected numbers near enough to each other for finite weights")
    return weights
