"""The losses as functions, in the manner of ``torch.nn.functional``.

All take logits ``input`` of shape (N, C, \\*spatial) with 0 to 3 spatial dimensions, in float32, float64, float16 or
bfloat16, contiguous or channels_last (anything else is copied once), and class indices ``target`` of shape (N,
\\*spatial) in uint8, int16, int32 or int64. They compute in float32 (float64 for float64) and return that; the
gradient has the dtype of ``input``. p = softmax(input) over the classes, y is the target class of a pixel.

Alike in all of them:

- A pixel whose label is ``ignore_index`` is in no sum and gets a zero gradient, even where its logits are nan or inf.
- Where nothing counts (every pixel ignored, an empty batch, or no weight on any pixel) the loss is 0 and so is the
  gradient; torch gives nan there.
- A logit of -inf is a probability of 0: the loss is inf where it is the target's, as in torch. +inf or nan at a valid
  pixel gives nan.
- A label outside [0, C) raises ValueError with the label and its position.
- ``upsample=True`` takes the loss of logits that are smaller than the target, (N, C, h, w) under (N, H, W), as if they
  went through ``F.interpolate(mode="bilinear", align_corners=align_corners)`` first. The full-size map never exists.
- ``sync=True`` (or a process group) adds up the sums of all ranks of ``torch.distributed`` between the two passes: loss
  and, under DistributedDataParallel, gradients are those of one process on the whole batch. Not with
  ``reduction="none"`` or ``per_sample``, and not under ``torch.compile``.
- Wrong shapes, dtypes, devices or options raise ValueError or TypeError naming the argument, the value and what was
  expected.
"""

from __future__ import annotations

from torch import Tensor

from . import options
from ._types import ClassWeights
from .ops import Sync, loss

__all__ = ["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss", "tversky_loss"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: ClassWeights = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    upsample: bool = False,
    align_corners: bool = False,
    sync: Sync = False,
) -> Tensor:
    """Weighted cross entropy of class-index targets: ``torch.nn.functional.cross_entropy`` in one pass over the logits.

    At a pixel, with e the label smoothing::

        L = -(1 - e) w_y log p_y - e / C * sum_c w_c log p_c

    ``"mean"`` divides the sum over the valid pixels by the sum of their w_y.

    Args:
        input: logits, (N, C, \\*spatial).
        target: class indices, (N, \\*spatial).
        weight: one finite weight of at least 0 for each class; default: all 1.
        ignore_index: label of pixels that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (a loss for each pixel, 0 at ignored ones).
        label_smoothing: the share of the target mass that is spread evenly over the classes, in [0, 1].
        upsample: take the loss of smaller logits as if they were interpolated to the size of the target.
        align_corners: of that interpolation, as in ``F.interpolate``.
        sync: add up the sums of all ranks, or of a process group.

    Returns:
        A scalar, or (N, \\*spatial) with ``reduction="none"``.

    Raises:
        TypeError: for something that is not a tensor, or a dtype that is not among those above.
        ValueError: for shapes or devices that do not fit, weights or options out of range, or a label outside [0, C);
            on CUDA such a label gives a nan loss instead, unless ``RAREPIXEL_DEBUG=1`` is set.

    Example:
        >>> import torch, rarepixel as rp
        >>> p = torch.tensor([[0.5, 0.3, 0.2]])
        >>> rp.cross_entropy(p.log(), torch.tensor([2]), reduction="none")
        tensor([1.6094])
        >>> rp.cross_entropy(p.log(), torch.tensor([2]), weight=[1.0, 1.0, 20.0], reduction="none")
        tensor([32.1888])

    Source: ``torch.nn.functional.cross_entropy``.
    """
    chosen = options.cross_entropy(ignore_index, reduction, label_smoothing)
    return loss(input, target, options.upsampled(chosen, upsample, align_corners), weight, sync=sync)


def focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: ClassWeights = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
    *,
    upsample: bool = False,
    align_corners: bool = False,
    sync: Sync = False,
) -> Tensor:
    """Focal loss for classes that exclude each other.

    At a pixel::

        pt="softmax":      L = -alpha_y (1 - p_y)^gamma log p_y
        pt="weighted_ce":  L = (1 - exp(-s))^gamma s,    s = -alpha_y log p_y

    ``"weighted_ce"`` is what code computes that starts from ``ce = F.cross_entropy(..., weight=alpha)`` and takes
    ``pt = exp(-ce)``: p_t is then p_y^alpha_y, and an easy pixel weighs alpha_y^(gamma + 1) instead of alpha_y. Use
    it to swap such code over without changing a number. ``"mean"`` divides by the number of valid pixels, not by
    their weights.

    Args:
        input: logits, (N, C, \\*spatial).
        target: class indices, (N, \\*spatial).
        alpha: one finite weight of at least 0 for each class; default: all 1.
        gamma: the focusing exponent, at least 0; 0 is cross entropy.
        ignore_index: label of pixels that do not count.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (a loss for each pixel, 0 at ignored ones).
        pt: where the probability of the target class comes from: ``"softmax"`` or ``"weighted_ce"``.
        upsample: take the loss of smaller logits as if they were interpolated to the size of the target.
        align_corners: of that interpolation, as in ``F.interpolate``.
        sync: add up the sums of all ranks, or of a process group.

    Returns:
        A scalar, or (N, \\*spatial) with ``reduction="none"``.

    Raises:
        TypeError: for something that is not a tensor, or a dtype that is not among those above.
        ValueError: for shapes or devices that do not fit, alpha or options out of range, or a label outside [0, C);
            on CUDA such a label gives a nan loss instead, unless ``RAREPIXEL_DEBUG=1`` is set.

    Example:
        >>> import torch, rarepixel as rp
        >>> p = torch.tensor([[0.95, 0.05], [0.5, 0.5], [0.1, 0.9]])
        >>> rp.focal_loss(p.log(), torch.tensor([0, 0, 0]), reduction="none")
        tensor([1.2823e-04, 1.7329e-01, 1.8651e+00])

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    chosen = options.focal_loss(gamma, ignore_index, reduction, pt)
    chosen = options.upsampled(chosen, upsample, align_corners)
    return loss(input, target, chosen, alpha, sync=sync)


def dice_loss(
    input: Tensor,
    target: Tensor,
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    weight: ClassWeights = None,
    ignore_index: int = -100,
    *,
    upsample: bool = False,
    align_corners: bool = False,
    sync: Sync = False,
) -> Tensor:
    """Soft Dice loss.

    With I_c = sum p_c y_c, P_c = sum p_c and T_c = sum y_c over the valid pixels (of the batch, or of each sample),
    and s = smooth::

        average="micro":  1 - (2 sum_c w_c I_c + s) / (sum_c w_c (P_c + T_c) + s)
        average="macro":  sum_c w_c (1 - (2 I_c + s) / (P_c + T_c + s)) / sum_c w_c

    Micro Dice with all classes and no weights equals 1 - mean(p_y) (but for ``smooth``): it is linear in p and blind
    to imbalance. It is the default because that is what the usual few-line ``DiceLoss(smooth)`` computes, so that
    swapping it changes nothing; for rare classes take ``average="macro"``.

    Args:
        input: logits, (N, C, \\*spatial).
        target: class indices, (N, \\*spatial), or one-hot or soft shares, (N, C, \\*spatial), in any dtype (converted
            once where it is not the dtype of the computation; ``ignore_index`` has no meaning there).
        smooth: added to numerator and denominator; at least 0. 0 / 0 counts as a perfect match.
        average: ``"micro"``: one Dice of the sums over all classes; ``"macro"``: the mean of the Dice of each class.
        per_sample: take the loss of each sample, then their mean.
        include_background: whether class 0 counts.
        absent: what a class without a target pixel gives in macro: ``"count"``, the formula (near 1 as soon as any of
            it is predicted), or ``"skip"``, nothing. Not read in micro.
        weight: one finite weight of at least 0 for each class; default: all 1.
        ignore_index: label of pixels that do not count.
        upsample: take the loss of smaller logits as if they were interpolated to the size of the target.
        align_corners: of that interpolation, as in ``F.interpolate``.
        sync: add up the sums of all ranks, or of a process group.

    Returns:
        A scalar.

    Raises:
        TypeError: for something that is not a tensor, or a dtype that is not among those above.
        ValueError: for shapes or devices that do not fit, weights or options out of range, or a label outside [0, C);
            on CUDA such a label gives a nan loss instead, unless ``RAREPIXEL_DEBUG=1`` is set.

    Example:
        >>> import torch, rarepixel as rp
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> rp.dice_loss(logits, torch.tensor([[0, 0, 1, 1]]))
        tensor(0.0003)
        >>> rp.dice_loss(logits, torch.tensor([[0, 0, 0, 1]]), average="macro")
        tensor(0.2668)

    Source: Milletari et al., V-Net, 3DV 2016 (there with squared sums; here the plain sums of most libraries).
    """
    chosen = options.dice_loss(smooth, average, per_sample, include_background, absent, ignore_index)
    chosen = options.upsampled(chosen, upsample, align_corners)
    return loss(input, target, chosen, None, weight, sync=sync)


def dice_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: ClassWeights = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    pt: str = "softmax",
    smooth: float = 1e-6,
    average: str = "micro",
    per_sample: bool = False,
    include_background: bool = True,
    absent: str = "count",
    dice_weight: ClassWeights = None,
    lambda_focal: float = 1.0,
    lambda_dice: float = 1.0,
    *,
    upsample: bool = False,
    align_corners: bool = False,
    sync: Sync = False,
) -> Tensor:
    """Focal + Dice, from one reading of the logits::

        L = lambda_focal * focal_loss(...) + lambda_dice * dice_loss(...)

    Args:
        input: logits, (N, C, \\*spatial).
        target: class indices, (N, \\*spatial).
        alpha: as in :func:`focal_loss`.
        gamma: as in :func:`focal_loss`.
        ignore_index: label of pixels that do not count.
        reduction: of the focal term: ``"mean"`` or ``"sum"``.
        pt: as in :func:`focal_loss`.
        smooth: as in :func:`dice_loss`.
        average: as in :func:`dice_loss`.
        per_sample: as in :func:`dice_loss`.
        include_background: as in :func:`dice_loss`; the focal term always has all classes.
        absent: as in :func:`dice_loss`.
        dice_weight: the ``weight`` of :func:`dice_loss`.
        lambda_focal: the factor before the focal term.
        lambda_dice: the factor before the Dice term.
        upsample: take the loss of smaller logits as if they were interpolated to the size of the target.
        align_corners: of that interpolation, as in ``F.interpolate``.
        sync: add up the sums of all ranks, or of a process group.

    Returns:
        A scalar.

    Raises:
        TypeError: for something that is not a tensor, or a dtype that is not among those above.
        ValueError: for shapes or devices that do not fit, weights or options out of range, or a label outside [0, C);
            on CUDA such a label gives a nan loss instead, unless ``RAREPIXEL_DEBUG=1`` is set.

    Example:
        >>> import torch, rarepixel as rp
        >>> logits, target = torch.randn(2, 5, 8, 8), torch.randint(5, (2, 8, 8))
        >>> both = rp.dice_focal_loss(logits, target, average="macro", lambda_dice=0.5)
        >>> parts = rp.focal_loss(logits, target) + 0.5 * rp.dice_loss(logits, target, average="macro")
        >>> bool(torch.isclose(both, parts))
        True

    Source: :func:`focal_loss` and :func:`dice_loss`; the sum as in DAHiTrA (Kaur et al. 2022).
    """
    focal = options.focal_loss(gamma, ignore_index, reduction, pt)
    dice = options.dice_loss(smooth, average, per_sample, include_background, absent, ignore_index)
    chosen = options.combined(focal, dice, lambda_focal, lambda_dice)
    chosen = options.upsampled(chosen, upsample, align_corners)
    return loss(input, target, chosen, alpha, dice_weight, sync=sync)


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
    weight: ClassWeights = None,
    ignore_index: int = -100,
    *,
    upsample: bool = False,
    align_corners: bool = False,
    sync: Sync = False,
) -> Tensor:
    """Soft Tversky loss: Dice in which false positives and false negatives weigh differently.

    With TP_c = sum p_c y_c, FP_c = sum p_c (1 - y_c) and FN_c = sum (1 - p_c) y_c over the valid pixels (of the batch,
    or of each sample), and s = smooth::

        R = (TP + s) / (TP + alpha FP + beta FN + s)

        average="micro":  1 - R of sum_c w_c TP_c, sum_c w_c FP_c and sum_c w_c FN_c
        average="macro":  sum_c w_c (1 - R_c) / sum_c w_c

    ``beta`` above ``alpha`` asks for recall: a missed pixel of a rare class costs more than a false alarm (0.3 and 0.7
    in the source). alpha = beta = 0.5 is :func:`dice_loss` with twice the ``smooth``, alpha = beta = 1 the Jaccard
    (IoU) loss. Unlike there the default is macro: in micro over all classes what one class has too much is what another
    lacks, FP = FN, so that alpha and beta count by their sum only.

    Args:
        input: logits, (N, C, \\*spatial).
        target: class indices, (N, \\*spatial), or one-hot or soft shares, (N, C, \\*spatial), as in :func:`dice_loss`.
        alpha: the weight of false positives, at least 0.
        beta: the weight of false negatives, at least 0. With 0 take a ``smooth`` above 0: else a class
            that is predicted almost nowhere has a derivative without bound.
        smooth: added to numerator and denominator; at least 0. 0 / 0 counts as a perfect match.
        average: ``"macro"``: the mean of the loss of each class; ``"micro"``: one loss of the sums over all classes.
        per_sample: as in :func:`dice_loss`.
        include_background: as in :func:`dice_loss`.
        absent: as in :func:`dice_loss`.
        weight: one finite weight of at least 0 for each class; default: all 1.
        ignore_index: label of pixels that do not count.
        upsample: take the loss of smaller logits as if they were interpolated to the size of the target.
        align_corners: of that interpolation, as in ``F.interpolate``.
        sync: add up the sums of all ranks, or of a process group.

    Returns:
        A scalar.

    Raises:
        TypeError: for something that is not a tensor, or a dtype that is not among those above.
        ValueError: for shapes or devices that do not fit, weights or options out of range, or a label outside [0, C);
            on CUDA such a label gives a nan loss instead, unless ``RAREPIXEL_DEBUG=1`` is set.

    Example:
        >>> import torch, rarepixel as rp
        >>> logits = torch.tensor([[[4.0, 4.0, -4.0, -4.0], [-4.0, -4.0, 4.0, 4.0]]])
        >>> missed = torch.tensor([[0, 1, 1, 1]])  # one pixel of class 1 is not found
        >>> rp.tversky_loss(logits, missed, alpha=0.3, beta=0.7, include_background=False)
        tensor(0.2594)
        >>> rp.tversky_loss(logits, missed, alpha=0.7, beta=0.3, include_background=False)
        tensor(0.1306)

    Source: Salehi et al., Tversky loss function for image segmentation using 3D fully convolutional deep networks,
    MLMI 2017.
    """
    chosen = options.tversky_loss(alpha, beta, smooth, average, per_sample, include_background, absent, ignore_index)
    chosen = options.upsampled(chosen, upsample, align_corners)
    return loss(input, target, chosen, None, weight, sync=sync)
