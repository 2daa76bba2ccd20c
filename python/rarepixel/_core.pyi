# The Rust extension. Checked against the built module by stubtest (make lint).

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["LossSpec", "build_info", "confusion_matrix", "folds", "loss_backward", "loss_forward"]

# data pointer, dtype name, shape, strides in elements
_Tensor = tuple[int, str, Sequence[int], Sequence[int]]

def build_info() -> dict[str, str]: ...
def confusion_matrix(
    input: _Tensor, target: _Tensor, num_classes: int, ignore_index: int, threads: int
) -> NDArray[np.int64]: ...

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
