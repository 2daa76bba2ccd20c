# The Rust extension. Checked against the built module by stubtest (make lint).

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "LossSpec",
    "build_info",
    "confusion_matrix",
    "cuda_cache",
    "cuda_compile",
    "cuda_devices",
    "cuda_driver",
    "cuda_loss_backward",
    "cuda_loss_forward",
    "cuda_nvrtc",
    "cuda_workspace",
    "default_threads",
    "folds",
    "loss_backward",
    "loss_finish",
    "loss_forward",
    "xbd_count_pixels",
    "xbd_index",
    "xbd_rasterize_label",
    "xbd_read_image",
    "xbd_read_label",
    "xbd_read_sample",
    "xbd_read_target",
    "xbd_synthesize",
]

# data pointer, dtype name, shape, strides in elements, the tensor or array itself
_Tensor = tuple[int, str, Sequence[int], Sequence[int], object]

def build_info() -> dict[str, str]: ...
def confusion_matrix(
    input: _Tensor, target: _Tensor, num_classes: int, ignore_index: int, threads: int
) -> npt.NDArray[np.int64]: ...

@final
class LossSpec:
    def __new__(
        cls,
        pixel: str,
        lambda_pixel: float,
        gamma: float,
        pt: str,
        label_smoothing: float,
        region: str,
        lambda_region: float,
        smooth: float,
        average: str,
        per_sample: bool,
        include_background: bool,
        absent: str,
        ignore_index: int,
        reduction: str,
        target_mode: str,
        align_corners: bool,
    ) -> LossSpec: ...
    def sums_shape(self, samples: int, classes: int) -> tuple[int, int]: ...
    @property
    def one_pass(self) -> bool: ...

def loss_forward(
    spec: LossSpec,
    input: _Tensor,
    target: _Tensor,
    weight: list[float] | None,
    dice_weight: list[float] | None,
    loss: _Tensor,
    sums: _Tensor,
    gradient: _Tensor | None,
    threads: int,
) -> None: ...
def loss_backward(
    spec: LossSpec,
    grad_output: _Tensor,
    input: _Tensor,
    target: _Tensor,
    weight: list[float] | None,
    dice_weight: list[float] | None,
    sums: _Tensor,
    gradient: _Tensor,
    threads: int,
) -> None: ...
def loss_finish(spec: LossSpec, sums: _Tensor, dice_weight: list[float] | None) -> float: ...
def folds(shape: Sequence[int], strides: Sequence[int], leading: int) -> bool: ...
def cuda_workspace(spec: LossSpec, device: int, input: _Tensor, target: _Tensor, loss: _Tensor) -> int: ...
def cuda_loss_forward(
    spec: LossSpec,
    device: int,
    stream: int,
    input: _Tensor,
    target: _Tensor,
    weight: _Tensor | None,
    dice_weight: _Tensor | None,
    loss: _Tensor,
    sums: _Tensor,
    partials: _Tensor,
) -> None: ...
def cuda_loss_backward(
    spec: LossSpec,
    device: int,
    stream: int,
    grad_output: _Tensor,
    input: _Tensor,
    target: _Tensor,
    weight: _Tensor | None,
    dice_weight: _Tensor | None,
    sums: _Tensor,
    coefficients: _Tensor,
    gradient: _Tensor,
) -> None: ...
def cuda_driver() -> tuple[int, int]: ...
def cuda_nvrtc() -> tuple[tuple[int, int], list[int]]: ...
def cuda_devices() -> list[tuple[str, tuple[int, int]]]: ...
def cuda_cache() -> tuple[Path, int, int, str | None] | None: ...
def cuda_compile(
    spec: LossSpec,
    source: str,
    input: str,
    target: str,
    classes: int,
    channels_last: bool,
    architecture: int,
    ptx: bool,
) -> tuple[bytes, str]: ...
def default_threads() -> int: ...

# xBD: what rarepixel.xbd wraps. A half of a tile is (image, label, target).
_Path: TypeAlias = str | os.PathLike[str]
_Half: TypeAlias = tuple[Path, Path | None, Path | None]
_UInt8: TypeAlias = npt.NDArray[np.uint8]
_MeanStd: TypeAlias = tuple[Sequence[float], Sequence[float]]

def xbd_index(
    root: _Path, splits: Sequence[str] | None
) -> tuple[list[tuple[str, str, str, _Half, _Half]], list[tuple[Path, str]]]: ...
def xbd_read_image(path: _Path, max_pixels: int) -> _UInt8: ...
def xbd_read_target(path: _Path, max_pixels: int) -> _UInt8: ...
def xbd_read_label(
    path: _Path,
) -> tuple[str, int, int, list[tuple[str, str | None, list[list[npt.NDArray[np.float64]]]]]]: ...
def xbd_rasterize_label(path: _Path, un_classified: str) -> _UInt8: ...
def xbd_count_pixels(
    masks: Sequence[tuple[_Path | None, _Path | None]], un_classified: str, max_pixels: int
) -> npt.NDArray[np.int64]: ...
def xbd_read_sample(
    pre: _Path,
    post: _Path,
    target: _Path | None,
    label: _Path | None,
    crop: int | None,
    augment: bool,
    normalize: _MeanStd | None,
    un_classified: str,
    max_pixels: int,
    seed: int,
    epoch: int,
    index: int,
) -> tuple[npt.NDArray[np.uint8 | np.float32], npt.NDArray[np.uint8 | np.float32], _UInt8]: ...
def xbd_synthesize(
    root: _Path,
    tiles: int,
    seed: int,
    size: int,
    split: str,
    un_classified: float,
    progress: Callable[[int], object] | None,
) -> None: ...
