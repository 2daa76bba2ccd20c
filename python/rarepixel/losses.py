"""The losses as modules: shells that hold the options of :mod:`rarepixel.functional`, with class weights as buffers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import functional
from ._arguments import doubles
from ._checks import check_constant, check_weight
from ._types import ClassWeights
from .ops import Sync

__all__ = ["CrossEntropyLoss", "DiceFocalLoss", "DiceLoss", "FocalLoss", "TverskyLoss"]


def _as_buffer(argument: str, weight: ClassWeights) -> Tensor | None:
    """Weights as a tensor, with the errors of the functions, as far as they do not depend on the logits."""
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        numbers = doubles(argument, weight, "one number for each class")
        if numbers.ndim == 1:
            check_weight(argument, numbers.tolist())
        weight = torch.tensor(numbers.tolist(), dtype=torch.float32)
    if weight.ndim != 1:
        raise ValueError(f"{argument}: got shape {list(weight.shape)}, expected (C,), one value for each class")
    check_constant(argument, weight)
    return weight


def _shown(value: Any) -> Any:
    """Weights as their numbers, or as torch shows a tensor that has none: on meta, or in FakeTensorMode."""
    try:
        return value.tolist() if isinstance(value, Tensor) else value
    except RuntimeError:
        return value


class _Loss(nn.Module):
    """Options as attributes, weights as buffers, so that ``.to(device)`` and ``state_dict`` see them."""

    def __init__(self, weights: dict[str, ClassWeights], options: dict[str, Any], sizes: dict[str, Any]) -> None:
        super().__init__()
        options = {**options, **sizes}
        for name, weight in weights.items():
            self.register_buffer(name, _as_buffer(name, weight))
        for name, value in options.items():
            setattr(self, name, value)
        self._arguments = (*weights, *options)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._arguments}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={_shown(value)!r}" for name, value in self._options().items())


class CrossEntropyLoss(_Loss):
    """:func:`rarepixel.cross_entropy` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.CrossEntropyLoss(weight=[1.0, 5.0, 20.0], ignore_index=255)
        >>> logits = torch.randn(2, 3, 8, 8, requires_grad=True)
        >>> criterion(logits, torch.randint(3, (2, 8, 8))).backward()
        >>> logits.grad.shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        weight: ClassWeights = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        upsample: bool = False,
        align_corners: bool = False,
        sync: Sync = False,
    ) -> None:
        super().__init__(
            {"weight": weight},
            {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing},
            {"upsample": upsample, "align_corners": align_corners, "sync": sync},
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :func:`rarepixel.cross_entropy`."""
        return functional.cross_entropy(input, target, **self._options())


class FocalLoss(_Loss):
    """:func:`rarepixel.focal_loss` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.FocalLoss(alpha=torch.tensor([1.0, 5.0, 20.0, 20.0, 20.0]), gamma=2)
        >>> criterion(torch.zeros(1, 5, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
        tensor(1.0300)
    """

    def __init__(
        self,
        alpha: ClassWeights = None,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        pt: str = "softmax",
        *,
        upsample: bool = False,
        align_corners: bool = False,
        sync: Sync = False,
    ) -> None:
        super().__init__(
            {"alpha": alpha},
            {"gamma": gamma, "ignore_index": ignore_index, "reduction": reduction, "pt": pt},
            {"upsample": upsample, "align_corners": align_corners, "sync": sync},
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :func:`rarepixel.focal_loss`."""
        return functional.focal_loss(input, target, **self._options())


class DiceLoss(_Loss):
    """:func:`rarepixel.dice_loss` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.DiceLoss(average="macro", include_background=False)
        >>> criterion(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8))
        tensor(0.3333)
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            {"weight": weight},
            {
                "smooth": smooth,
                "average": average,
                "per_sample": per_sample,
                "include_background": include_background,
                "absent": absent,
                "ignore_index": ignore_index,
            },
            {"upsample": upsample, "align_corners": align_corners, "sync": sync},
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :func:`rarepixel.dice_loss`."""
        return functional.dice_loss(input, target, **self._options())


class DiceFocalLoss(_Loss):
    """:func:`rarepixel.dice_focal_loss` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.DiceFocalLoss(average="macro", lambda_dice=0.5)
        >>> logits = torch.randn(2, 5, 16, 16, requires_grad=True)
        >>> criterion(logits, torch.randint(5, (2, 16, 16), dtype=torch.uint8)).backward()
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            {"alpha": alpha, "dice_weight": dice_weight},
            {
                "gamma": gamma,
                "ignore_index": ignore_index,
                "reduction": reduction,
                "pt": pt,
                "smooth": smooth,
                "average": average,
                "per_sample": per_sample,
                "include_background": include_background,
                "absent": absent,
                "lambda_focal": lambda_focal,
                "lambda_dice": lambda_dice,
            },
            {"upsample": upsample, "align_corners": align_corners, "sync": sync},
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :func:`rarepixel.dice_focal_loss`."""
        return functional.dice_focal_loss(input, target, **self._options())


class TverskyLoss(_Loss):
    """:func:`rarepixel.tversky_loss` as a module; the arguments are its own.

    Example:
        >>> import torch, rarepixel as rp
        >>> criterion = rp.TverskyLoss(alpha=0.3, beta=0.7)
        >>> criterion(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.uint8))
        tensor(0.7059)
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__(
            {"weight": weight},
            {
                "alpha": alpha,
                "beta": beta,
                "smooth": smooth,
                "average": average,
                "per_sample": per_sample,
                "include_background": include_background,
                "absent": absent,
                "ignore_index": ignore_index,
            },
            {"upsample": upsample, "align_corners": align_corners, "sync": sync},
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See :func:`rarepixel.tversky_loss`."""
        return functional.tversky_loss(input, target, **self._options())
