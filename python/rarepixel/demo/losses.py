"""The loss of the demo, ours or in plain torch, and a stopwatch for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

import rarepixel as rp

from .options import Options

# Maps of logits, the largest last, and the mask, to the loss and its part from each map, which are for the log.
Criterion: TypeAlias = Callable[[Sequence[Tensor], Tensor], tuple[Tensor, Tensor]]

# Background, no damage, minor, major, destroyed: near the inverse of their frequency, but bounded.
CLASS_WEIGHTS = (1.0, 5.0, 20.0, 20.0, 20.0)
# Focal + macro Dice, which see rare classes.
FOCAL: dict[str, Any] = {"alpha": CLASS_WEIGHTS, "gamma": 2.0}
DICE: dict[str, Any] = {"average": "macro", "absent": "skip"}
# Deep supervision: the scales, weights and terms that rp.MultiScaleLoss() has too, with the options above.
STAGES: tuple[Mapping[str, Any], ...] = (
    {"scale": 1 / 8, "weight": 0.4, "focal": FOCAL},
    {"scale": 1 / 4, "weight": 0.6, "focal": FOCAL, "dice": DICE},
    {"scale": 1.0, "weight": 1.0, "focal": FOCAL, "dice": DICE},
)
SCALE_NAMES = tuple(str(Fraction(stage["scale"])) for stage in STAGES)


def make_criterion(losses: str, multi_scale: bool = False, sync: bool = False) -> Criterion:
    """The loss of one map or of three: fused (``"rarepixel"``) or op by op in torch (``"torch"``).

    With `sync` it is that of the batches of all processes together, which the plain torch losses do not have.
    """
    if losses == "torch":
        if sync:
            raise ValueError("--losses: got torch on several processes, expected rarepixel, which adds up over them")
        return partial(_composed, STAGES if multi_scale else STAGES[-1:])
    if multi_scale:
        return rp.MultiScaleLoss(STAGES, ignore_index=rp.xbd.IGNORE_INDEX, return_stages=True, sync=sync)
    fused = rp.DiceFocalLoss(**FOCAL, **DICE, ignore_index=rp.xbd.IGNORE_INDEX, sync=sync)

    def of_one_map(maps: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        loss = fused(maps[-1], mask)
        return loss, loss.detach().reshape(1)

    return of_one_map


def _composed(stages: Sequence[Mapping[str, Any]], maps: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same by plain torch operations: the mask is resized for each map, the terms are computed one by one."""
    from rarepixel import reference

    ignore = {"ignore_index": rp.xbd.IGNORE_INDEX}
    alpha = torch.tensor(CLASS_WEIGHTS)
    parts = []
    for stage, logits in zip(stages, maps, strict=True):
        same_size = logits.shape[2:] == mask.shape[1:]
        logits, labels = reference.matched(logits, mask, "exact" if same_size else "nearest")
        loss = reference.focal_loss(logits, labels, **stage["focal"] | ignore | {"alpha": alpha})
        if "dice" in stage:
            loss = loss + reference.dice_loss(logits, labels, **stage["dice"] | ignore)
        parts.append(stage["weight"] * loss)
    each = torch.stack(parts)
    return each.sum(), each.detach()


class TimedLoss:
    """Runs the loss forward and backward on its own, so that its time is told from the model's.
    With several processes that includes the wait for the others.

    The loss is computed in float64 and its gradient rounded to bfloat16, as mixed precision does. Training multiplies
    rounding noise ten thousandfold: in float32 two correct losses, equal to 1e-7, are 1e-3 apart after a few epochs.
    This way correct losses give the same gradients bit for bit, so that ``--losses rarepixel`` and ``--losses torch``
    give the same curves, and a loss that is really another one (by 1e-6, say) shows. Without such a comparison plain
    float32 is the natural choice.
    """

    def __init__(self, options: Options, sync: bool = False) -> None:
        self._training = make_criterion(options.losses, options.multi_scale, sync)
        self._validation = make_criterion(options.losses, options.multi_scale)
        self.seconds = 0.0

    def backward(self, maps: Sequence[Tensor], mask: Tensor) -> list[float]:
        """The loss and its part from each map; the gradient goes on through the graphs of the maps."""
        leaves = [logits.detach().double().requires_grad_() for logits in maps]
        start = time.perf_counter()
        loss, parts = self._training(leaves, mask)
        gradients = torch.autograd.grad(loss, leaves)
        self.seconds += time.perf_counter() - start
        rounded = [gradient.bfloat16().to(logits.dtype) for gradient, logits in zip(gradients, maps, strict=True)]
        torch.autograd.backward(maps, rounded)
        return [loss.item(), *parts.tolist()]

    @torch.no_grad()
    def value(self, maps: Sequence[Tensor], mask: Tensor) -> float:
        """The loss alone, not timed, and of this process alone."""
        return self._validation([logits.double() for logits in maps], mask)[0].item()
