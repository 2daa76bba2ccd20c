"""Tensors of torch and arrays of NumPy as Rust takes them: address, dtype, shape and strides.

Nothing here needs torch: a tensor can only come from a torch that is already imported.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _core

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "torch.Tensor | NDArray[Any]"


def is_tensor(array: object) -> bool:
    """Whether it is a tensor of torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def readable(name: str, array: Any) -> Any:
    """The array in memory that the CPU reads, in a dtype that Rust names; a copy only where that needs one."""
    if is_tensor(array):
        import torch

        if array.layout != torch.strided or array.is_meta:
            raise TypeError(f"{name}: got a {array.layout} tensor on {array.device}, expected a dense tensor with data")
        array = array.detach().cpu()
        return array.view(torch.uint8) if array.dtype == torch.bool else array
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: got {type(array).__name__}, expected a torch tensor or a NumPy array")
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    whole = all(stride % array.itemsize == 0 for stride in array.strides)  # not so for a field of a packed struct
    if array.dtype.isnative and array.flags.aligned and whole:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def is_floating(array: Any) -> bool:
    """Whether a :func:`readable` array holds logits, not labels. NumPy has no bfloat16 of its own: its kind is not "f"."""
    return bool(array.is_floating_point() if is_tensor(array) else array.dtype.kind not in "iu")


def foldable(array: Any, leading: int) -> Any:
    """The array, or a contiguous copy where the dimensions after the `leading` ones do not fold into one stride."""
    _, _, shape, strides = describe(array)
    if len(shape) <= leading or _core.folds(shape, strides, leading):
        return array
    return array.contiguous() if is_tensor(array) else np.ascontiguousarray(array)


def describe(array: Any) -> tuple[int, str, tuple[int, ...], tuple[int, ...]]:
    """Address, dtype name, shape and strides in elements of a :func:`readable` array."""
    if is_tensor(array):
        return array.data_ptr(), str(array.dtype).removeprefix("torch."), tuple(array.shape), array.stride()
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return array.ctypes.data, array.dtype.name, array.shape, strides


def threads() -> int:
    """The threads to use: torch's number where torch is there (1 in a DataLoader's worker), else 0: Rust decides."""
    torch = sys.modules.get("torch")
    return 0 if torch is None else int(torch.get_num_threads())


def labels(name: str, array: Any) -> NDArray[Any]:
    """Labels as a NumPy array: as they are, or the argmax of logits (N, C, *spatial)."""
    array = readable(name, array)
    return np.asarray(array.argmax(1) if is_floating(array) else array)
