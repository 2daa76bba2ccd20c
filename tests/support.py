"""What several test files share: tolerances, layouts, random batches."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

PROJECT = Path(__file__).resolve().parent.parent


def real_tiles() -> Path | None:
    """Real xBD tiles: ``RAREPIXEL_XBD_ROOT``, or ../shared/xbd-sample beside the project; None where there are none."""
    root = Path(os.environ.get("RAREPIXEL_XBD_ROOT") or PROJECT.parent / "shared" / "xbd-sample")
    return root if root.is_dir() else None


def few(max_examples: int) -> settings:
    """Hypothesis on CUDA. Each combination of options is a kernel to compile: the cache has those of the last run."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
    )


@dataclass(frozen=True)
class Precision:
    """A dtype of logits with the tolerances that go with it (relative to the largest value of the truth)."""

    dtype: torch.dtype
    loss_rtol: float
    gradient_rtol: float
    gradient_atol: float = 0.0

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


# Half types: computed in float32, so the loss is as good as float32; the gradient is rounded once to 11 or 8 bits.
# float16 gradients below 6e-5 are denormal, with a spacing of 6e-8.
PRECISIONS = (
    Precision(torch.float64, 1e-12, 1e-12),
    Precision(torch.float32, 1e-6, 1e-6),
    Precision(torch.float16, 1e-6, 2**-11 + 1e-6, 2**-25),
    Precision(torch.bfloat16, 1e-6, 2**-8 + 1e-6),
)


def assert_close(name: str, got: Tensor, truth: Tensor, rtol: float, atol: float = 0.0, own_error: float = 0.0) -> None:
    """Every element within rtol of the largest true one, or within `own_error` (what torch's own float32 is off by)."""
    got, truth = got.double(), truth.double()
    assert got.shape == truth.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    assert not got.isnan().any(), f"{name}: nan"
    if not got.numel():
        return
    error = (got - truth).abs().max().item()
    bound = max(rtol * truth.abs().max().item(), own_error) + atol
    assert error <= bound, f"{name}: off by {error:.3e}, allowed {bound:.3e}"


LAYOUTS = ("contiguous", "channels_last", "channel_slice", "sample_slice", "permuted")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last":
        # Also for (N, C, L): the class dimension is the densest.
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "channel_slice":
        wide = torch.full(
            (tensor.shape[0], tensor.shape[1] + 3, *tensor.shape[2:]),
            torch.nan,
            dtype=tensor.dtype,
            device=tensor.device,
        )
        wide[:, 2:-1] = tensor
        return wide[:, 2:-1]
    if layout == "sample_slice":
        wide = torch.full((2 * tensor.shape[0], *tensor.shape[1:]), torch.nan, dtype=tensor.dtype, device=tensor.device)
        wide[::2] = tensor
        return wide[::2]
    if layout == "storage_offset":
        # Starts in the middle of a vector.
        storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
        return storage[1:].view(tensor.shape).copy_(tensor)
    if layout == "permuted":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return tensor.contiguous()


def gradient_of(loss: Tensor, input: Tensor, grad_output: Tensor | None = None) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, input, grad_output)
    return gradient


def replaced(pattern: str, replacement: str, number: int = 0) -> Callable[[str], str]:
    """Text with one match of the pattern replaced: the one of that number, from 0 or (negative) from behind."""

    def change(text: str) -> str:
        match = list(re.finditer(pattern, text))[number]
        return text[: match.start()] + match.expand(replacement) + text[match.end() :]

    return change
