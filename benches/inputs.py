"""The batches that all contenders get, and the truth about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Truth: TypeAlias = tuple[Tensor, Tensor]

# A batch repeats a patch of this size, so that its truth in float64 costs the same at 4096 x 4096 as at 256 x 256: the
# losses here are means and ratios of sums, which repeating does not change.
PATCH = 256

# Largest error of the loss, relative, and of the gradient, relative to its largest element. Half types round the
# gradient once, to 11 or 8 bits; float16 is denormal below 6e-5, in steps of 6e-8.
TOLERANCES = {
    torch.float64: (1e-9, 1e-9, 0.0),
    torch.float32: (1e-4, 1e-4, 0.0),
    torch.float16: (1e-4, 2**-10, 2**-24),
    torch.bfloat16: (1e-4, 2**-7, 0.0),
}


@dataclass(frozen=True)
class Inputs:
    """Shape and type of a batch: logits (samples, classes, size, size) and labels (samples, size, size)."""

    samples: int = 4
    classes: int = 5
    size: int = 512
    dtype: torch.dtype = torch.float32
    target_dtype: torch.dtype = torch.int64
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.samples, self.classes, self.size, self.size

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Of all logits: of several maps in multi-scale supervision."""
        return [self.shape]

    @property
    def logits(self) -> int:
        """How many."""
        return sum(math.prod(shape) for shape in self.shapes)

    def make(self) -> tuple[Tensor, Tensor]:
        """Logits, a leaf that requires grad, and labels."""
        logits, target = self._patch()
        times = self._times
        logits = logits.repeat(1, 1, times, times)
        if self.channels_last:
            logits = logits.contiguous(memory_format=torch.channels_last)
        return logits.requires_grad_(), target.repeat(1, times, times)

    def truth(self, definition: Loss) -> Truth:
        """The loss and its gradient (of the patch) by a definition in plain torch, in float64."""
        logits, target = self._patch()
        logits = logits.double().requires_grad_()
        loss = definition(logits, target.long())
        (gradient,) = torch.autograd.grad(loss, logits)
        return loss.detach(), gradient / self._times**2

    def check_loss(self, loss: Tensor, truth: Tensor, name: str, rtol: float | None = None) -> float:
        """Its relative error; AssertionError where that is above `rtol`, by default that of the type."""
        off = abs(loss.item() / truth.item() - 1)
        bound = rtol or TOLERANCES[self.dtype][0]
        assert off <= bound, f"{name}: loss {loss.item()}, expected {truth.item()}: off by {off:.1e}"
        return off

    def check_gradient(
        self, gradient: Tensor, truth: Tensor, name: str, rtol: float | None = None, scale: float = 1.0
    ) -> float:
        """Its largest error, relative to its largest element, where `scale` is the incoming gradient.

        AssertionError where that is above `rtol`, by default that of the type.
        """
        _, gradient_rtol, gradient_atol = TOLERANCES[self.dtype]
        assert gradient.dtype == self.dtype, f"{name}: gradient in {gradient.dtype}, expected {self.dtype}"
        patch = truth.shape[-1]
        expected = truth * scale
        largest = expected.abs().max().item()
        bound = (rtol or gradient_rtol) * largest + gradient_atol
        worst = 0.0
        for rows in gradient.split(patch, 2):
            for part in rows.split(patch, 3):
                error = (part.double() - expected).abs().max().item()
                assert error <= bound, f"{name}: gradient off by {error:.1e}, allowed {bound:.1e}"
                worst = max(worst, error / largest)
        return worst

    @property
    def _times(self) -> int:
        times, rest = divmod(self.size, min(self.size, PATCH))
        if rest:
            raise ValueError(f"size: got {self.size}, expected at most {PATCH} or a multiple of it")
        return times

    def _patch(self) -> tuple[Tensor, Tensor]:
        """Blobs in xBD's class mix: 96 % background, most of the rest the first building class."""
        size = min(self.size, PATCH)
        generator = torch.Generator().manual_seed(self.classes * 1000 + size)
        mix = torch.full((self.classes,), 0.001)
        mix[:2] = torch.tensor([0.96, max(0.04 - 0.001 * (self.classes - 2), 0.001)])
        blob = min(4, size)
        blobs = torch.multinomial(mix, self.samples * (size // blob) ** 2, replacement=True, generator=generator)
        # Every class occurs, or losses that differ on absent classes could not be compared.
        blobs[: self.classes] = torch.arange(self.classes)
        blobs = blobs.view(self.samples, size // blob, size // blob)
        target = blobs.repeat_interleave(blob, 1).repeat_interleave(blob, 2)
        right = F.one_hot(target, self.classes).movedim(-1, 1)
        noise = torch.randn(self.samples, self.classes, size, size, generator=generator)
        # As of a network that has learnt something: most pixels right, few of them certain.
        return (2 * noise + 4 * right).to(self.dtype), target.to(self.target_dtype)
