"""Arguments checked, so that an error names the one that is wrong."""

from __future__ import annotations

import operator
import sys

import numpy as np
from numpy.typing import NDArray


def is_tensor(value: object) -> bool:
    """Whether it is a tensor of torch, which can only come from a torch that is imported already."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def doubles(argument: str, values: object, expected: str) -> NDArray[np.float64]:
    """Numbers, in an array. NumPy would also read texts and dates, halve complex numbers, and look under masks."""
    try:
        # As a list, which a tensor gives on any device, and if it requires grad.
        array = np.asarray(values.tolist() if hasattr(values, "tolist") else values)
        if array.dtype.kind not in "SUcmM" and not isinstance(values, np.ma.MaskedArray):
            return array.astype(np.float64)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        pass
    raise TypeError(f"{argument}: got {values!r}, expected {expected}")


def whole_number(argument: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type] # whether it is one is the question
    except TypeError:
        raise TypeError(f"{argument}: got {value!r}, expected a whole number") from None


def integer(argument: str, value: object, low: int = -(1 << 63), high: int = (1 << 63) - 1) -> int:
    """One of 64 bits, or of fewer."""
    number = whole_number(argument, value)
    if not low <= number <= high:
        raise ValueError(f"{argument}: got {number}, expected {low} to {high}")
    return number


def boolean(argument: str, value: object) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{argument}: got {value!r}, expected True or False")
    return bool(value)


def number(argument: str, value: object) -> float:
    # float would read a text.
    if not isinstance(value, str | bytes):
        try:
            return float(value)  # type: ignore[arg-type] # whether it is one is the question
        except (TypeError, ValueError, OverflowError):
            pass
    raise TypeError(f"{argument}: got {value!r}, expected a number")
