# The Rust extension. Checked against the built module by stubtest (make lint).

import numpy as np
from numpy.typing import NDArray

def build_info() -> dict[str, str]: ...

# One array: address, dtype name, shape, strides in elements.
_Array = tuple[int, str, tuple[int, ...], tuple[int, ...]]

def confusion_matrix(
    input: _Array, target: _Array, num_classes: int, ignore_index: int, threads: int
) -> NDArray[np.int64] | None: ...
