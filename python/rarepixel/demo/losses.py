"""The loss of the demo, ours or in plain torch, and a stopwatch for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

import rarepixel as rp

Criterion: TypeAlias = Callable[[Tensor, Tensor], Tensor]

# Background, no damage, minor, major, destroyed: near the inverse of their frequency, but bounded.
CLASS_WEIGHTS = (1.0, 5.0, 20.0, 20.0, 20.0)


def make_criterion(losses: str) -> Criterion:
    """Focal + macro Dice, which see rare classes: fused (``"rarepixel"``) or op by op in torch (``"torch"``)."""
    if losses == "rarepixel":
        return rp.DiceFocalLoss(
            alpha=CLASS_WEIGHTS, gamma=2.0, average="macro", absent="skip", ignore_index=rp.xbd.IGNORE_INDEX
        )
    from rarepixel import reference

    return partial(
        reference.dice_focal_loss,
        alpha=torch.tensor(CLASS_WEIGHTS),
        gamma=2.0,
        average="macro",
        absent="skip",
        ignore_index=rp.xbd.IGNORE_INDEX,
    )


class TimedLoss:
    """Runs a criterion forward and backward on its own, so that its time is told from the model's.

    The loss is computed in float64 and its gradient rounded to bfloat16, as mixed precision does. Training multiplies
    rounding noise ten thousandfold: in float32 two correct losses, equal to 1e-7, are 1e-3 apart after a few epochs.
    This way correct losses give the same gradients bit for bit, so that ``--losses rarepixel`` and ``--losses torch``
    give the same curves, and a loss that is really another one (by 1e-6, say) shows. Without such a comparison plain
    float32 is the natural choice.
    """

    def __init__(self, criterion: Criterion) -> None:
        self.criterion = criterion
        self.seconds = 0.0

    def backward(self, logits: Tensor, mask: Tensor) -> float:
        """The loss; its gradient goes on through the graph of `logits`."""
        leaf = logits.detach().double().requires_grad_()
        start = time.perf_counter()
        loss = self.criterion(leaf, mask)
        loss.backward()
        self.seconds += time.perf_counter() - start
        assert leaf.grad is not None
        logits.backward(leaf.grad.bfloat16().to(logits.dtype))
        return loss.item()

    @torch.no_grad()
    def value(self, logits: Tensor, mask: Tensor) -> float:
        """The loss alone, not timed."""
        return self.criterion(logits.double(), mask).item()
