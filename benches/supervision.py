"""Deep supervision: batches of maps of several sizes under one target, and who computes their loss.

What `torch` and `torch.compile` run here is what users write: the target is resized for each map, or each map to the
target's size, and the losses of the course follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

import course
import peers
import rarepixel as rp
from inputs import Inputs
from peers import Peer
from rarepixel import reference

Maps: TypeAlias = tuple[Tensor, ...]
MapsLoss: TypeAlias = Callable[[Maps, Tensor], Tensor]
# Of one map and a target of its size.
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# What a map and the target become so that their sizes fit.
Matching: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# The weights of the course, from the full size down.
WEIGHTS = (1.0, 0.6, 0.4)


@dataclass(frozen=True)
class Scales(Inputs):
    """A batch of maps under a target of (samples, size, size)."""

    factors: tuple[int, ...] = (1, 4, 8)
    """How many times the target is larger than each map."""

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        return [(self.samples, self.classes, self.size // factor, self.size // factor) for factor in self.factors]

    def make(self) -> tuple[Maps, Tensor]:
        """Maps, leaves that require grad, and labels."""
        logits, target = super().make()
        logits = logits.detach()
        maps = (logits[:, :, factor // 2 :: factor, factor // 2 :: factor] for factor in self.factors)
        return tuple(each.clone(memory_format=torch.contiguous_format).requires_grad_() for each in maps), target

    def truth(self, definition: MapsLoss) -> tuple[Tensor, Maps]:
        """The loss and its gradients by a definition in plain torch, in float64."""
        maps, target = self.make()
        exact = tuple(each.detach().double().requires_grad_() for each in maps)
        loss = definition(exact, target.long())
        return loss.detach(), torch.autograd.grad(loss, exact)

    def check_gradient(
        self, gradient: Maps, truth: Maps, name: str, rtol: float | None = None, scale: float = 1.0
    ) -> float:
        """The largest error of any map's gradient, as :meth:`Inputs.check_gradient` has it."""
        pairs = zip(gradient, truth, strict=True)
        return max(
            super(Scales, self).check_gradient(*pair, f"{name}, map {index}", rtol, scale)
            for index, pair in enumerate(pairs)
        )


def _nearest(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    resized = F.interpolate(target.unsqueeze(1).float(), logits.shape[2:], mode="nearest-exact")
    return logits, resized.squeeze(1).long()


def _shares(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    one_hot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
    return logits, F.adaptive_avg_pool2d(one_hot, logits.shape[2:])


def _most(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    # Ties go to the lower class here, to the rarer one in rarepixel.
    return logits, _shares(logits, target)[1].argmax(1)


def _upsampled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return F.interpolate(logits, target.shape[1:], mode="bilinear"), target


def _by_reference(mode: str) -> Matching:
    return lambda logits, target: reference.matched(logits, target, mode)


def _composed(loss: Loss, matching: Matching, weights: Sequence[float]) -> MapsLoss:
    """The weighted sum of the loss of each map."""

    def call(maps: Maps, target: Tensor) -> Tensor:
        terms = [factor * loss(*matching(each, target)) for factor, each in zip(weights, maps, strict=True)]
        return torch.stack(terms).sum()

    return call


def _focal_and_dice(weight: Tensor) -> tuple[Loss, Loss]:
    """The course's focal + Dice, and its definition."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return course.dice_focal_loss(logits, target, weight)

    def definition(logits: Tensor, target: Tensor) -> Tensor:
        return reference.dice_focal_loss(logits, target, weight, pt="weighted_ce")

    return loss, definition


def multi_scale(classes: int) -> dict[str, list[Peer]]:
    """By target mode. With "area", whose labels are shares of classes, cross entropy takes the place of focal."""
    weight = course.class_weights(classes)
    focal, exact_focal = _focal_and_dice(weight)

    def soft(logits: Tensor, shares: Tensor) -> Tensor:
        return F.cross_entropy(logits, shares, weight) + course.soft_dice_loss(logits, shares)

    def exact_soft(logits: Tensor, shares: Tensor) -> Tensor:
        return reference.cross_entropy(logits, shares, weight) + reference.dice_loss(logits, shares)

    by_mode = {
        "nearest": (_nearest, focal, exact_focal),
        "majority": (_most, focal, exact_focal),
        "area": (_shares, soft, exact_soft),
        "upsample_logits": (_upsampled, focal, exact_focal),
    }
    cases = {}
    for mode, (matching, loss, exact_loss) in by_mode.items():
        pixel = {"cross_entropy": {"weight": weight}} if mode == "area" else _focal_term(weight)
        ours = rp.MultiScaleLoss([rp.Stage(factor, dice={}, **pixel) for factor in WEIGHTS], mode)
        # Where torch breaks ties in its own way, that is its definition.
        torch_definition = _composed(exact_loss, matching if mode == "majority" else _by_reference(mode), WEIGHTS)
        plain = _composed(loss, matching, WEIGHTS)
        cases[mode] = [
            Peer("rarepixel", peers.ready(ours), _composed(exact_loss, _by_reference(mode), WEIGHTS)),
            Peer("torch", peers.ready(plain), torch_definition),
            Peer("torch.compile", peers.compiled(plain), torch_definition),
        ]
    return cases


def _focal_term(weight: Tensor) -> dict[str, object]:
    return {"focal": {"alpha": weight, "pt": "weighted_ce"}}


def upsample(classes: int) -> list[Peer]:
    """Focal + Dice of one small map at the size of the target."""
    weight = course.class_weights(classes)
    ours = rp.DiceFocalLoss(weight, pt="weighted_ce", upsample=True)
    loss, exact_loss = _focal_and_dice(weight)
    definition = _composed(exact_loss, _by_reference("upsample_logits"), (1.0,))
    plain = _composed(loss, _upsampled, (1.0,))
    return [
        Peer("rarepixel", peers.ready(lambda maps, target: ours(*maps, target)), definition),
        Peer("torch", peers.ready(plain), definition),
        Peer("torch.compile", peers.compiled(plain), definition),
    ]
