"""The losses in plain torch: short, differentiable on any device, exact in float64.

This is the truth that tests and benches compare the fused losses with, and what runs on devices that have no kernels.
The definitions are those of :mod:`rarepixel.functional`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss", "matched", "tversky_loss"]


def matched(
    input: Tensor, target: Tensor, target_mode: str, align_corners: bool = False, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Logits (N, C, h, w) and a target (N, H, W) brought to one size: see :func:`rarepixel.multi_scale_loss`.

    "nearest" and "majority" give labels of the size of the logits, "area" shares of classes (0 for all where a window
    has no valid pixel), "upsample_logits" logits of the size of the target.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> target = torch.zeros(1, 4, 4, dtype=torch.long)
        >>> target[0, :3, :3] = 1
        >>> reference.matched(torch.zeros(1, 2, 2, 2), target, "majority")[1].tolist()
        [[[1, 0], [0, 0]]]
        >>> reference.matched(torch.zeros(1, 2, 2, 2), target, "area")[1][0, 1].tolist()
        [[1.0, 0.5], [0.5, 0.25]]
    """
    if target_mode == "exact":
        return input, target
    if target_mode == "upsample_logits":
        full = target.shape[1:]
        return F.interpolate(_in_full(input), full, mode="bilinear", align_corners=align_corners), target
    size = (input.shape[2], input.shape[3])
    if target_mode == "nearest":
        # Exact in float64 up to 2^53.
        return input, F.interpolate(target.double()[:, None], size, mode="nearest-exact")[:, 0].long()
    valid = target.long() != ignore_index  # a number that the dtype lacks marks nothing
    labels = torch.where(valid, target, 0).long()
    one_hot = _one_hot(labels, input.shape[1]).double() * valid[:, None]
    share = F.adaptive_avg_pool2d(one_hot, size)
    total = share.sum(1, keepdim=True)
    if target_mode == "area":
        return input, share / torch.where(total == 0, 1.0, total)
    # Ties: the class with fewer pixels in the batch, then the higher index. Shares are exact only to rounding.
    rarity = torch.argsort(torch.argsort(-one_hot.sum((0, 2, 3)), stable=True))
    most = share >= share.amax(1, keepdim=True) * (1 - 1e-9)
    winner = torch.where(most, rarity[None, :, None, None], -1).argmax(1)
    return input, torch.where(total[:, 0] == 0, ignore_index, winner)


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """(N, C, *spatial) bool: ``F.one_hot`` with the classes where logits have them, also under vmap."""
    numbers = torch.arange(classes, device=labels.device).view(classes, *[1] * (labels.ndim - 1))
    return labels.unsqueeze(1) == numbers


def _valid_only(input: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and mask of the valid pixels, with 0 and class 0 in the place of ignored ones."""
    valid = target.long() != ignore_index  # a number that the dtype lacks marks nothing
    labels = torch.where(valid, target, 0).long()
    return torch.where(valid.unsqueeze(1), input, 0.0), labels, valid


def _in_full(input: Tensor) -> Tensor:
    return input if input.dtype == torch.float64 else input.float()


def _divided(total: Tensor, denominator: Tensor) -> Tensor:
    """total / denominator; 0, with a zero gradient, where nothing counts."""
    nothing = denominator == 0
    return torch.where(nothing, torch.zeros_like(total), total / torch.where(nothing, 1.0, denominator))


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Weighted cross entropy: see :func:`rarepixel.cross_entropy`.

    Also of shares of classes, (N, C, *spatial), over the pixels that are `valid`, as ``target_mode="area"`` has it.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> p, weight = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([1.0, 1.0, 20.0])
        >>> reference.cross_entropy(p.log(), torch.tensor([2]), weight, reduction="none")
        tensor([32.1888])
    """
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    weight = weight.to(_in_full(input))
    if target.ndim == input.ndim:
        shares = target.to(weight)
        if valid is None:
            valid = torch.ones_like(shares[:, 0], dtype=torch.bool)
        logits = torch.where(valid.unsqueeze(1), _in_full(input), 0.0)
        losses = F.cross_entropy(logits, shares, weight, reduction="none", label_smoothing=label_smoothing)
        losses = torch.where(valid, losses, 0.0)
        return (
            losses
            if reduction == "none"
            else _divided(losses.sum(), valid.sum() if reduction == "mean" else weight.new_ones(()))
        )
    logits, labels, valid = _valid_only(_in_full(input), target, ignore_index)
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
    """Focal loss: see :func:`rarepixel.focal_loss`.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> p = torch.tensor([[0.95, 0.05], [0.1, 0.9]])
        >>> reference.focal_loss(p.log(), torch.tensor([0, 0]), reduction="none")
        tensor([1.2823e-04, 1.8651e+00])
    """
    logits, labels, valid = _valid_only(_in_full(input), target, ignore_index)
    alpha = logits.new_ones(logits.shape[1]) if alpha is None else alpha
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
    valid: Tensor | None = None,
) -> Tensor:
    """Dice loss: see :func:`rarepixel.dice_loss`. Of shares of classes, only over the pixels that are `valid`.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> reference.dice_loss(logits, torch.tensor([[0, 0, 0, 1]]), average="macro")
        tensor(0.2668)
    """

    def dice(intersection: Tensor, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * intersection + smooth, prediction + truth + smooth

    return _region_loss(
        dice, input, target, average, per_sample, include_background, absent, weight, ignore_index, valid
    )


def tversky_loss(
    input: Tensor,
    target: Tensor,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1e-6,
    average: str = "macro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    valid: Tensor | None = None,
) -> Tensor:
    """Tversky loss: see :func:`rarepixel.tversky_loss`. Of shares of classes, only over the pixels that are `valid`.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> missed = torch.tensor([[0, 1, 1, 1]])
        >>> reference.tversky_loss(logits, missed, alpha=0.3, beta=0.7, include_background=False)
        tensor(0.2594)
    """

    def tversky(right: Tensor, prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        false_positives, false_negatives = prediction - right, truth - right
        return right + smooth, right + alpha * false_positives + beta * false_negatives + smooth

    return _region_loss(
        tversky, input, target, average, per_sample, include_background, absent, weight, ignore_index, valid
    )


def _region_loss(
    parts: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    input: Tensor,
    target: Tensor,
    average: str,
    per_sample: bool,
    include_background: bool,
    absent: str,
    weight: Tensor | None,
    ignore_index: int,
    valid: Tensor | None,
) -> Tensor:
    """1 - numerator / denominator, which `parts` makes of the sums of p y, p and y."""
    input = _in_full(input)
    classes = input.shape[1]
    if target.ndim == input.ndim:
        everywhere = torch.ones_like(target[:, :1], dtype=torch.bool)
        valid = everywhere if valid is None else valid.unsqueeze(1)
        p, y = torch.where(valid, input, 0.0).softmax(1) * valid, target.to(input.dtype) * valid
    else:
        logits, labels, valid = _valid_only(input, target, ignore_index)
        p = logits.softmax(1) * valid.unsqueeze(1)
        y = _one_hot(labels, classes).to(input.dtype) * valid.unsqueeze(1)
    over = list(range(2, input.ndim)) if per_sample else [0, *range(2, input.ndim)]
    # (N, C) or (1, C) sums. NumPy-style: a sum over no dimension is the tensor itself.
    intersection, prediction, truth = ((x.sum(over) if over else x).reshape(-1, classes) for x in (p * y, p, y))
    weight = input.new_ones(classes) if weight is None else weight
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
    numerator, denominator = parts(intersection, prediction, truth)
    # Nothing in either, without smoothing: a perfect match.
    empty = denominator == 0
    overlap = torch.where(empty, 1.0, numerator / torch.where(empty, 1.0, denominator))
    losses = _divided((weights * (1 - overlap)).sum(1), weights.sum(1))
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
    """Focal + Dice: see :func:`rarepixel.dice_focal_loss`.

    Example:
        >>> import torch
        >>> from rarepixel import reference
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> reference.dice_focal_loss(logits, torch.tensor([[0, 0, 0, 1]]))
        tensor(2.2489)
    """
    focal = focal_loss(input, target, alpha, gamma, ignore_index, reduction, pt)
    dice = dice_loss(input, target, smooth, average, per_sample, include_background, absent, dice_weight, ignore_index)
    return lambda_focal * focal + lambda_dice * dice
