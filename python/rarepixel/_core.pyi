# The Rust extension. Checked against the built module by stubtest (make lint).

from collections.abc import Sequence
from pathlib import Path
from typing import final

__all__ = [
    "LossSpec",
    "build_info",
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
    "loss_forward",
]

# data pointer, dtype name, shape, strides in elements, the tensor or array itself
_Tensor = tuple[int, str, Sequence[int], Sequence[int], object]

def build_info() -> dict[str, str]: ...

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
