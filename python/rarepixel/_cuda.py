"""The CUDA side of the bridge: torch allocates and owns the stream, Rust launches.

No call here waits for the device or copies to it, so all of it can be captured in a CUDA graph, after a first call for
each kind of loss and operands: that compiles the kernels, and copies weights that are given as numbers.
"""

from __future__ import annotations

import ctypes
import os
import sys
import weakref
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _core


def nvrtc_candidates() -> list[Path]:
    """NVRTC libraries in the packages that CUDA builds of torch bring, those of torch's own CUDA version first."""
    major = (torch.version.cuda or "").split(".")[0]
    folders = [Path(entry) / "nvidia" for entry in sys.path if entry and (Path(entry) / "nvidia").is_dir()]
    found = [
        library
        for folder in folders
        for pattern in ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*")
        for library in sorted(folder.glob(pattern), reverse=True)
    ]
    return sorted(found, key=lambda library: not library.name.endswith(f".{major}"))


@cache
def load_nvrtc() -> str | None:
    """Load the NVRTC that came with torch, which no library path leads to. Its path; None leaves it to the system."""
    for library in nvrtc_candidates():
        try:
            # Its other half is looked for by name when something is compiled: have it there.
            for builtins in sorted(library.parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            _core.cuda_use_nvrtc(library)
        except (OSError, RuntimeError):
            continue
        return str(library)
    return None


def given(tensor: Tensor) -> Tensor:
    """The tensor, which Rust is to read or write: here tests see what the device gets."""
    return tensor


def _place(input: Tensor) -> tuple[int, int]:
    """Device ordinal and current stream."""
    ordinal = input.get_device()
    return ordinal, torch.cuda.current_stream(ordinal).cuda_stream


def weight_tensor(values: tuple[float, ...], dtype: torch.dtype, input: Tensor) -> Tensor:
    """Weights given as numbers, on the device of `input`."""
    key = (values, dtype, input.device)
    if not (input.is_cuda and torch.cuda.is_current_stream_capturing()):
        weight = _kept_weight(*key, _place(input))
        _known[key] = weight
        return weight
    # A graph cannot wait for a copy from the host. That of another stream will do: it was waited for.
    known = _known.get(key)
    if known is None:
        raise RuntimeError(
            "weights given as numbers are copied to the device by the first call, which a CUDA graph cannot capture: "
            "call the loss once before the capture, or give a tensor on the device"
        )
    _of_graphs[key] = known  # replays read it for as long as there are any
    return known


_of_graphs: dict[Any, Tensor] = {}
_known: weakref.WeakValueDictionary[Any, Tensor] = weakref.WeakValueDictionary()


# Kept, because each copy from the host would wait for the device. Each stream has its own: what is forgotten may be
# used again at once by the stream that it was made on.
@lru_cache(maxsize=256)
def _kept_weight(values: tuple[float, ...], dtype: torch.dtype, device: torch.device, place: tuple[int, int]) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def debugging() -> bool:
    """Whether ``RAREPIXEL_DEBUG`` asks for checks that wait for the device."""
    return os.environ.get("RAREPIXEL_DEBUG") == "1"


def forward(
    spec: _core.LossSpec,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    dice_weight: Tensor | None,
    loss: Tensor,
    state: Tensor,
    summed: bool = False,
) -> None:
    """Fill `loss`, and `state` with what the backward pass needs; `summed`: from the sums that are in `state` already.

    Weights are contiguous and in the type of the computation.
    """
    load_nvrtc()
    ordinal, stream = _place(input)
    input_, target_, loss_ = given(input), given(target), given(loss)
    partials = None
    if not summed:
        partials = given(state.new_empty(_core.cuda_workspace(spec, ordinal, input_, target_, loss_)))
    _core.cuda_loss_forward(
        spec,
        ordinal,
        stream,
        input_,
        target_,
        None if weight is None else given(weight),
        None if dice_weight is None else given(dice_weight),
        loss_,
        given(state),
        partials,
    )


def class_counts(target: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Pixels of each class, (C,) int64: the diagonal of the confusion matrix of the target with itself."""
    load_nvrtc()
    counts = target.new_zeros(classes**2 + 2, dtype=torch.int64)
    _core.cuda_class_counts(*_place(target), given(target), given(counts), classes, ignore_index)
    return counts[:-2].view(classes, classes).diagonal().contiguous()


def resize(input: Tensor, target: Tensor, counts: Tensor | None, labels: Tensor, ignore_index: int) -> None:
    """Fill `labels`, int32 of the size of `input`: by majority with `counts` of classes, else the nearest."""
    load_nvrtc()
    _core.cuda_resize(
        *_place(input),
        given(input),
        given(target),
        None if counts is None else given(counts),
        given(labels),
        ignore_index,
    )


def confusion_matrix(input: Tensor, target: Tensor, counts: Tensor, num_classes: int, ignore_index: int) -> None:
    """Add to `counts`: (C, C), then how many labels of target and input are no class."""
    load_nvrtc()
    _core.cuda_confusion_matrix(*_place(input), given(input), given(target), given(counts), num_classes, ignore_index)


def backward(
    spec: _core.LossSpec,
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    state: Tensor,
    gradient: Tensor,
    upsampled: bool,
) -> None:
    """Fill `gradient`. `upsampled`: of logits that are upsampled to the size of the target."""
    load_nvrtc()
    ordinal, stream = _place(input)
    input_, target_ = given(input), given(target)
    owed = None
    if upsampled:
        owed = given(grad_output.new_empty(_core.cuda_owed(spec, ordinal, input_, target_)))
    _core.cuda_loss_backward(
        spec,
        ordinal,
        stream,
        given(grad_output),
        input_,
        target_,
        None if weight is None else given(weight),
        given(state),
        owed,
        given(gradient),
    )
