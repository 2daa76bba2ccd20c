"""The losses in plain torch: short, differentiable on any device, exact in float64.

This is the truth that tests and benches compare the fused losses with, and what runs on devices that have no kernels.
The definitions are those of :mod:`rarepixel.functional`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss"]


def _valid_only(input: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and mask of the valid pixels, with 0 and class 0 in the place of ignored ones."""
    valid = target != ignore_index
    labels = torch.where(valid, target, 0).long()
    return torch.where(valid.unsqueeze(1), input, 0.0), labels, valid


def _in_full(input: Tensor) -> Tensor:
    return input if input.dtype == torch.float64 else input.float()


def _divided(total: Tensor, denominator: Tensor) -> Tensor:
    """total / denominator; 0, with a zero gradient, where nothing counts."""
    nothing = denominator == 0
    return torch.where(nothing, total * 0.0, total / torch.where(nothing, 1.0, denominator))


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Weighted cross entropy: see :func:`rarepixel.cross_entropy`."""
    logits, labels, valid = _valid_only(_in_full(input), target, ignore_index)
    weight = torch.ones(logits.shape[1]) if weight is None else weight
    weight = weight.to(logits)
    losses = F.cross_entropy(logits, labels, weight, reduction="none", label_smoothing=label_smoothing)
    losses = torch.where(valid, losses, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return _divided(losses.sum(), torch.where(valid, weight[labels], 0.0).sum())


def focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
) -> Tensor:
    """Focal loss: see :func:`rarepixel.focal_loss`."""
    logits, labels, valid = _valid_only(_in_full(input), target, ignore_index)
    alpha = torch.ones(logits.shape[1]) if alpha is None else alpha
    alpha = alpha.to(logits)
    ce = F.cross_entropy(logits, labels, reduction="none")
    outer = alpha[labels]
    s = ce
    if pt == "weighted_ce":
        s, outer = outer * ce, torch.ones_like(ce)
    u = -torch.expm1(-s)
    # u = 0 counts as 0: the power is taken where it has a derivative.
    positive = u > 0
    power = torch.where(positive, torch.where(positive, u, 1.0) ** gamma, 1.0 if gamma == 0 else 0.0)
    losses = torch.where(valid, outer * power * s, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return _divided(losses.sum(), valid.sum())


def dice_loss(
    input: Tensor,
    target: Tensor,
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """Dice loss: see :func:`rarepixel.dice_loss`."""
    input = _in_full(input)
    classes = input.shape[1]
    if target.ndim == input.ndim:
        p, y = input.softmax(1), target.to(input.dtype)
    else:
        logits, labels, valid = _valid_only(input, target, ignore_index)
        p = logits.softmax(1) * valid.unsqueeze(1)
        y = F.one_hot(labels, classes).movedim(-1, 1).to(input.dtype) * valid.unsqueeze(1)
    over = list(range(2, input.ndim)) if per_sample else [0, *range(2, input.ndim)]
    # (N, C) or (1, C) sums. NumPy-style: a sum over no dimension is the tensor itself.
    intersection, prediction, truth = ((x.sum(over) if over else x).reshape(-1, classes) for x in (p * y, p, y))
    weight = torch.ones(classes) if weight is None else weight
    weights = weight.to(input).expand(intersection.shape[0], classes).clone()
    if not include_background:
        weights[:, 0] = 0.0
    if average == "micro":
        intersection, prediction, truth = (
            (weights * x).sum(1, keepdim=True) for x in (intersection, prediction, truth)
        )
        weights = torch.ones_like(intersection)
    elif absent == "skip":
        weights = torch.where(truth == 0, 0.0, weights)
    denominator = prediction + truth + smooth
    # Nothing predicted and nothing there, without smoothing: a perfect match.
    empty = denominator == 0
    dice = torch.where(empty, 1.0, (2 * intersection + smooth) / torch.where(empty, 1.0, denominator))
    losses = _divided((weights * (1 - dice)).sum(1), weights.sum(1))
    return losses.mean() if len(losses) else input.sum()


def dice_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    dice_weight: Tensor | None = None,
    lambda_focal: float = 1.0,
    lambda_dice: float = 1.0,
) -> Tensor:
    """Focal + Dice: see :func:`rarepixel.dice_focal_loss`."""
    focal = focal_loss(input, target, alpha, gamma, ignore_index, reduction, pt)
    dice = dice_loss(input, target, smooth, average, per_sample, include_background, absent, dice_weight, ignore_index)
    return lambda_focal * focal + lambda_dice * dice
