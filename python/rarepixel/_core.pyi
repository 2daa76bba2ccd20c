# The Rust extension. Checked against the built module by stubtest (make lint).

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "Labels",
    "LossSpec",
    "XBDFeed",
    "XBDRun",
    "build_info",
    "class_counts",
    "confusion_matrix",
    "cuda_cache",
    "cuda_class_counts",
    "cuda_compile",
    "cuda_confusion_matrix",
    "cuda_devices",
    "cuda_driver",
    "cuda_loss_backward",
    "cuda_loss_forward",
    "cuda_nvrtc",
    "cuda_owed",
    "cuda_resize",
    "cuda_use_nvrtc",
    "cuda_workspace",
    "default_threads",
    "folds",
    "free_idle_memory",
    "idle_memory",
    "join_torch",
    "kept_like",
    "loss_backward",
    "loss_finish",
    "loss_forward",
    "read_tensors_by",
    "resize_labels",
    "xbd_check",
    "xbd_count_pixels",
    "xbd_index",
    "xbd_pack",
    "xbd_rasterize_label",
    "xbd_read_image",
    "xbd_read_label",
    "xbd_read_target",
    "xbd_synthesize",
    "xbd_write_targets",
]

# torch's, or (data pointer, dtype name, shape, strides in elements, owner).
_Tensor: TypeAlias = torch.Tensor | tuple[int, str, Sequence[int], Sequence[int], object]

def read_tensors_by(tensor: type[torch.Tensor], exchange: object) -> bool: ...
def kept_like(input: _Tensor, channels_last: bool) -> torch.Tensor | None: ...
def idle_memory() -> list[int]: ...
def free_idle_memory() -> None: ...

@final
class Labels:
    """What the first pass made of the labels of a target."""

    @property
    def narrowed(self) -> bool: ...

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
        alpha: float,
        beta: float,
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
    @property
    def one_pass(self) -> bool: ...
    @property
    def keeps(self) -> bool: ...

def loss_forward(
    spec: LossSpec,
    input: _Tensor,
    target: _Tensor,
    weight: list[float] | None,
    dice_weight: list[float] | None,
    loss: _Tensor | None,
    gradient: _Tensor | None,
    scale: float,
    known: Labels | None,
    threads: int,
) -> tuple[float, list[float], Labels | None]: ...
def loss_backward(
    spec: LossSpec,
    grad_output: _Tensor,
    input: _Tensor,
    target: _Tensor,
    weight: list[float] | None,
    dice_weight: list[float] | None,
    sums: list[float],
    gradient: _Tensor,
    kept: bool,
    labels: Labels | None,
    threads: int,
) -> None: ...
def loss_finish(spec: LossSpec, sums: list[float], classes: int, dice_weight: list[float] | None) -> float: ...
def folds(shape: Sequence[int], strides: Sequence[int], leading: int) -> bool: ...
def class_counts(spec: LossSpec, input: _Tensor, target: _Tensor, threads: int) -> list[int]: ...
def resize_labels(
    input: _Tensor,
    target: _Tensor,
    counts: Sequence[int] | None,
    labels: _Tensor,
    ignore_index: int,
    threads: int,
) -> None: ...
def cuda_owed(spec: LossSpec, device: int, input: _Tensor, target: _Tensor) -> int: ...
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
    state: _Tensor,
    partials: _Tensor | None,
) -> None: ...
def cuda_loss_backward(
    spec: LossSpec,
    device: int,
    stream: int,
    grad_output: _Tensor,
    input: _Tensor,
    target: _Tensor,
    weight: _Tensor | None,
    state: _Tensor,
    owed: _Tensor | None,
    gradient: _Tensor,
) -> None: ...
def cuda_class_counts(
    device: int, stream: int, target: _Tensor, counts: _Tensor, classes: int, ignore_index: int
) -> None: ...
def cuda_resize(
    device: int,
    stream: int,
    input: _Tensor,
    target: _Tensor,
    counts: _Tensor | None,
    labels: _Tensor,
    ignore_index: int,
) -> None: ...
def cuda_confusion_matrix(
    device: int,
    stream: int,
    input: _Tensor,
    target: _Tensor,
    counts: _Tensor,
    num_classes: int,
    ignore_index: int,
) -> None: ...
def cuda_driver() -> tuple[int, int]: ...
def cuda_nvrtc() -> tuple[tuple[int, int], list[int], str]: ...
def cuda_use_nvrtc(path: Path) -> None: ...
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
def join_torch() -> bool: ...

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
    path: _Path, max_pixels: int
) -> tuple[str, int, int, list[tuple[str, str | None, list[list[npt.NDArray[np.float64]]]]]]: ...
def xbd_rasterize_label(path: _Path, un_classified: str, max_pixels: int) -> _UInt8: ...
def xbd_count_pixels(
    masks: Sequence[tuple[_Path | None, _Path | None]],
    un_classified: str,
    max_pixels: int,
    progress: Callable[[int], object] | None,
) -> npt.NDArray[np.int64]: ...
def xbd_synthesize(
    root: _Path,
    tiles: int,
    seed: int,
    size: int,
    split: str,
    un_classified: float,
    progress: Callable[[int], object] | None,
) -> None: ...
def xbd_check(
    root: _Path, splits: Sequence[str] | None, max_pixels: int, progress: Callable[[int], object] | None
) -> tuple[int, list[tuple[Path, str]]]: ...
def xbd_write_targets(
    root: _Path,
    splits: Sequence[str] | None,
    un_classified: str,
    max_pixels: int,
    progress: Callable[[int], object] | None,
) -> tuple[int, int]: ...
def xbd_pack(
    root: _Path,
    splits: Sequence[str] | None,
    disasters: Sequence[str] | None,
    out: _Path,
    max_pixels: int,
    progress: Callable[[int], object] | None,
) -> tuple[int, int]: ...

_Shares: TypeAlias = tuple[int, int, bool, int, int]  # samples, batch_size, drop_last, rank, world_size

@final
class XBDFeed:
    def __new__(
        cls,
        tiles: Sequence[tuple[_Path, _Path, _Path | None, _Path | None]],
        crop: int | None,
        augment: dict[str, float | tuple[float, float]],
        normalize: _MeanStd | None,
        un_classified: str,
        max_pixels: int,
        seed: int,
        shuffle: bool,
        sampler: str,
        class_weights: Sequence[float],
        candidates: int,
        survey_file: _Path,
        skip_errors: bool,
    ) -> XBDFeed: ...
    @property
    def survey_not_kept(self) -> str | None: ...
    @property
    def survey_skipped(self) -> list[str]: ...
    def read_sample(
        self, epoch: int, index: int
    ) -> tuple[npt.NDArray[np.uint8 | np.float32], npt.NDArray[np.uint8 | np.float32], _UInt8]: ...
    def tile_size(self, index: int) -> tuple[int, int]: ...
    def start(self, epoch: int, first_batch: int, shares: _Shares, size: tuple[int, int], threads: int) -> XBDRun: ...
    @staticmethod
    def batches(shares: _Shares) -> int: ...

@final
class XBDRun:
    def submit(self, memory: Sequence[tuple[int, int]], owner: object) -> bool: ...
    def next(self) -> tuple[Any, int, npt.NDArray[np.int64], list[str]] | None: ...
    def close(self) -> None: ...
