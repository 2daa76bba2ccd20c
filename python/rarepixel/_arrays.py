"""Tensors of torch and arrays of NumPy taken alike, for what needs no torch: metrics and pictures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _core, numpy
from ._arguments import is_tensor

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "torch.Tensor | NDArray[Any]"


def readable(name: str, array: Any, keep_device: bool = False) -> Any:
    """The array in memory that the CPU reads, in a dtype that Rust names; a copy only where that needs one.

    With `keep_device` a tensor stays where it is.
    """
    if is_tensor(array):
        import torch

        if array.layout != torch.strided or array.is_meta:
            raise TypeError(f"{name}: got a {array.layout} tensor on {array.device}, expected a dense tensor with data")
        array = array.detach() if keep_device else array.detach().cpu()
        return array.view(torch.uint8) if array.dtype == torch.bool else array
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        expected = "a torch tensor or a NumPy array (use ignore_index to mask)"
        raise TypeError(f"{name}: got {type(array).__name__}, expected {expected}")
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    return array if array.flags.aligned else array.copy()


def on_one_device(*arrays: Any) -> bool:
    """Whether all are tensors of one CUDA device."""
    if not all(map(is_tensor, arrays)):
        return False
    from . import _tensors

    return all(map(_tensors.on_cuda, arrays)) and len({array.device for array in arrays}) == 1


def is_floating(array: Any) -> bool:
    """Whether a :func:`readable` array holds logits, not labels. The bfloat16 of ``ml_dtypes`` is not of kind "f"."""
    return bool(array.is_floating_point() if is_tensor(array) else array.dtype.kind not in "iu")


def foldable(array: Any, leading: int) -> Any:
    """A :func:`readable` array; copied where what follows the `leading` dimensions does not fold."""
    leading = min(leading, array.ndim)  # fewer are a wrong shape, which Rust names
    if is_tensor(array):
        from . import _tensors

        return _tensors.foldable(array, leading)
    return numpy._foldable(array, leading)


def described(array: Any, leading: int) -> Any:
    """The same as Rust takes it."""
    array = foldable(array, leading)
    return array if is_tensor(array) else numpy._described(array)


def threads() -> int:
    """The threads to use: torch's number where torch is there (1 in a DataLoader's worker), else the machine's."""
    torch = sys.modules.get("torch")
    return _core.default_threads() if torch is None else int(torch.get_num_threads())


def labels(name: str, array: Any) -> NDArray[Any]:
    """Labels as a NumPy array, where there can be no logits."""
    array = readable(name, array)
    if is_floating(array):
        raise TypeError(f"{name}: got {array.dtype}, expected labels in bool, uint8, int16, int32 or int64")
    return np.asarray(array)


def predictions(name: str, array: Any, num_classes: int) -> NDArray[Any]:
    """Predicted labels as a NumPy array: as they are, or the argmax of logits (N, C, *spatial)."""
    array = readable(name, array)
    if not is_floating(array):
        return np.asarray(array)
    if array.ndim < 2 or array.shape[1] != num_classes:
        raise ValueError(
            f"{name}: got {array.dtype} of shape {tuple(array.shape)}, expected logits (N, {num_classes}, *spatial) "
            "or labels (N, *spatial) in bool, uint8, int16, int32 or int64"
        )
    return np.asarray(array.argmax(1))
