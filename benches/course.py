"""The losses of the course that the project implements, in plain torch: what `torch` and `torch.compile` run here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Background, no damage, minor, major, destroyed. Further classes, in benches of many classes, weigh 20 too.
CLASS_WEIGHTS = (1.0, 5.0, 20.0, 20.0, 20.0)


def class_weights(classes: int) -> Tensor:
    """One weight for each class."""
    return torch.tensor((*CLASS_WEIGHTS, *[20.0] * classes)[:classes])


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    return F.cross_entropy(logits, target, weight)


def focal_loss(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """p_t comes from the weighted cross entropy, as in most code of this kind."""
    ce = F.cross_entropy(logits, target, weight, reduction="none")
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-6) -> Tensor:
    return soft_dice_loss(logits, F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float(), smooth)


def soft_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-6) -> Tensor:
    """Of a one-hot target, or one of shares."""
    p = logits.softmax(1)
    return 1 - (2 * (p * target).sum() + smooth) / (p.sum() + target.sum() + smooth)


def dice_focal_loss(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    return focal_loss(logits, target, weight) + dice_loss(logits, target)
