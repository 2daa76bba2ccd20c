"""The losses on NumPy arrays, without torch: each gives (loss, gradient).

Definitions, shapes, dtypes, defaults and errors are those of the torch functions of the same names in
:mod:`rarepixel.functional`. The gradient is dL/dinput in the dtype of ``input``; with ``reduction="none"`` it holds
the gradient of each pixel's own loss. bfloat16 arrays (of the ``ml_dtypes`` package) are taken too. The threads used
are ``RAREPIXEL_NUM_THREADS``, or all that the machine has.

Example:
    >>> import numpy as np
    >>> import rarepixel.numpy as rpn
    >>> logits = np.log(np.array([[0.2, 0.8]], dtype=np.float32))
    >>> loss, gradient = rpn.cross_entropy(logits, np.array([0]), weight=[20.0, 1.0], reduction="sum")
    >>> round(loss, 1), gradient.round(1).tolist()
    (32.2, [[-16.0, 16.0]])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _core, options
from ._arguments import doubles
from .options import Options, spec

__all__ = ["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss", "tversky_loss"]

Array: TypeAlias = NDArray[Any]
Weight: TypeAlias = ArrayLike | None


def _described(array: Array) -> tuple[int, str, Sequence[int], Sequence[int], Array]:
    """The array as Rust takes it, itself last to stay alive."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return array.__array_interface__["data"][0], array.dtype.name, array.shape, strides, array


def _foldable(array: Array, leading: int) -> Array:
    """The array, or a contiguous copy in native byte order where Rust cannot walk it in place."""
    native = array.dtype.isnative and not any(stride % array.itemsize for stride in array.strides)
    if native and _core.folds(array.shape, [stride // array.itemsize for stride in array.strides], leading):
        return array
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _as_weight(argument: str, weight: Weight, classes: int) -> list[float] | None:
    if weight is None:
        return None
    values = doubles(argument, weight, "one number for each class")
    if values.ndim != 1:
        raise ValueError(f"{argument}: got shape {list(values.shape)}, expected ({classes},), one value for each class")
    listed: list[float] = values.tolist()
    return listed


def _loss(
    input: Array,
    target: Array,
    chosen: Options,
    weight: Weight,
    dice_weight: Weight,
) -> tuple[Any, Array]:
    """A float and the gradient; with ``reduction="none"`` an array and the gradient."""
    for argument, value in (("input", input), ("target", target)):
        if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            raise TypeError(
                f"{argument}: got {type(value).__name__}, expected a numpy.ndarray (use ignore_index to mask)"
            )
    if input.ndim < 2:
        shape = list(input.shape)
        raise ValueError(f"input: got shape {shape}, expected (N, C, *spatial) with 0 to 3 spatial dimensions")
    loss_spec = spec(chosen)
    input = _foldable(input, 2)
    compute = np.float64 if input.dtype == np.float64 else np.float32
    soft = target.ndim == input.ndim
    if soft and target.dtype.kind in "SUcmMO":
        raise TypeError(f"target: got {target.dtype}, expected numbers, one for each class")
    target = _foldable(target.astype(compute, copy=False), 2) if soft else _foldable(target, 1)
    pixel_name, region_name = options.weight_names(chosen)
    pixel_weight = _as_weight(pixel_name, weight, input.shape[1])
    region_weight = _as_weight(region_name, dice_weight, input.shape[1])
    scalar = chosen.reduction != "none"
    pixels = None if scalar else np.empty(target.shape, dtype=compute)
    gradient = np.empty_like(input)
    if not _core.folds(gradient.shape, _described(gradient)[3], 2):
        gradient = np.empty_like(input, order="C")
    at, truth, slope = map(_described, (input, target, gradient))
    threads = _core.default_threads()
    kept = loss_spec.keeps and not soft and gradient.dtype == compute and gradient.flags.c_contiguous
    early = slope if loss_spec.one_pass or kept else None
    weights = (pixel_weight, region_weight)
    loss_at = None if pixels is None else _described(pixels)
    loss, sums, labels = _core.loss_forward(loss_spec, at, truth, *weights, loss_at, early, 1.0, None, threads)
    if not loss_spec.one_pass:
        incoming = _described(np.ones(() if pixels is None else pixels.shape, dtype=compute))
        _core.loss_backward(loss_spec, incoming, at, truth, *weights, sums, slope, kept, labels, threads)
    # Rounded to the type of the computation, as torch's is.
    return (float(compute(loss)) if pixels is None else pixels), gradient


@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Weight = ...,
    ignore_index: int = ...,
    *,
    reduction: Literal["none"],
    label_smoothing: float = ...,
) -> tuple[Array, Array]: ...
@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Weight = ...,
    ignore_index: int = ...,
    reduction: Literal["mean", "sum"] = ...,
    label_smoothing: float = ...,
) -> tuple[float, Array]: ...
@overload
def cross_entropy(
    input: Array,
    target: Array,
    weight: Weight = ...,
    ignore_index: int = ...,
    reduction: str = ...,
    label_smoothing: float = ...,
) -> tuple[float | Array, Array]: ...
def cross_entropy(
    input: Array,
    target: Array,
    weight: Weight = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[float | Array, Array]:
    """Weighted cross entropy and its gradient: see :func:`rarepixel.cross_entropy`.

    Example:
        >>> import numpy as np
        >>> import rarepixel.numpy as rpn
        >>> logits = np.log([[0.5, 0.3, 0.2]])
        >>> loss, gradient = rpn.cross_entropy(logits, np.array([2]), reduction="sum")
        >>> round(loss, 4), gradient.round(2).tolist()
        (1.6094, [[0.5, 0.3, -0.8]])
    """
    chosen = options.cross_entropy(ignore_index, reduction, label_smoothing)
    return _loss(input, target, chosen, weight, None)


@overload
def focal_loss(
    input: Array,
    target: Array,
    alpha: Weight = ...,
    gamma: float = ...,
    ignore_index: int = ...,
    *,
    reduction: Literal["none"],
    pt: str = ...,
) -> tuple[Array, Array]: ...
@overload
def focal_loss(
    input: Array,
    target: Array,
    alpha: Weight = ...,
    gamma: float = ...,
    ignore_index: int = ...,
    reduction: Literal["mean", "sum"] = ...,
    pt: str = ...,
) -> tuple[float, Array]: ...
@overload
def focal_loss(
    input: Array,
    target: Array,
    alpha: Weight = ...,
    gamma: float = ...,
    ignore_index: int = ...,
    reduction: str = ...,
    pt: str = ...,
) -> tuple[float | Array, Array]: ...
def focal_loss(
    input: Array,
    target: Array,
    alpha: Weight = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
) -> tuple[float | Array, Array]:
    """Focal loss and its gradient: see :func:`rarepixel.focal_loss`.

    Example:
        >>> import numpy as np
        >>> import rarepixel.numpy as rpn
        >>> logits = np.log([[0.95, 0.05], [0.1, 0.9]])
        >>> losses, gradients = rpn.focal_loss(logits, np.array([0, 0]), reduction="none")
        >>> losses.round(5).tolist(), gradients.shape
        ([0.00013, 1.86509], (2, 2))
    """
    chosen = options.focal_loss(gamma, ignore_index, reduction, pt)
    return _loss(input, target, chosen, alpha, None)


def dice_loss(
    input: Array,
    target: Array,
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    weight: Weight = None,
    ignore_index: int = -100,
) -> tuple[float, Array]:
    """Dice loss and its gradient: see :func:`rarepixel.dice_loss`.

    Example:
        >>> import numpy as np
        >>> import rarepixel.numpy as rpn
        >>> logits = np.array([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> loss, gradient = rpn.dice_loss(logits, np.array([[0, 0, 0, 1]]), average="macro")
        >>> round(loss, 4), gradient.shape
        (0.2668, (1, 2, 4))
    """
    chosen = options.dice_loss(smooth, average, per_sample, include_background, absent, ignore_index)
    return _loss(input, target, chosen, None, weight)


def dice_focal_loss(
    input: Array,
    target: Array,
    alpha: Weight = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    dice_weight: Weight = None,
    lambda_focal: float = 1.0,
    lambda_dice: float = 1.0,
) -> tuple[float, Array]:
    """Focal + Dice and its gradient: see :func:`rarepixel.dice_focal_loss`.

    Example:
        >>> import numpy as np
        >>> import rarepixel.numpy as rpn
        >>> logits = np.array([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> loss, gradient = rpn.dice_focal_loss(logits, np.array([[0, 0, 0, 1]]))
        >>> round(loss, 4), gradient.shape
        (2.2489, (1, 2, 4))
    """
    focal = options.focal_loss(gamma, ignore_index, reduction, pt)
    dice = options.dice_loss(smooth, average, per_sample, include_background, absent, ignore_index)
    chosen = options.combined(focal, dice, lambda_focal, lambda_dice)
    return _loss(input, target, chosen, alpha, dice_weight)


def tversky_loss(
    input: Array,
    target: Array,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1e-6,
    average: str = "macro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    weight: Weight = None,
    ignore_index: int = -100,
) -> tuple[float, Array]:
    """Tversky loss and its gradient: see :func:`rarepixel.tversky_loss`.

    Example:
        >>> import numpy as np
        >>> import rarepixel.numpy as rpn
        >>> logits = np.array([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> missed = np.array([[0, 1, 1, 1]])
        >>> loss, gradient = rpn.tversky_loss(logits, missed, alpha=0.3, beta=0.7, include_background=False)
        >>> round(loss, 4), gradient.shape
        (0.2594, (1, 2, 4))
    """
    chosen = options.tversky_loss(alpha, beta, smooth, average, per_sample, include_background, absent, ignore_index)
    return _loss(input, target, chosen, None, weight)
