"""Fused losses and data for finding rare pixels.

Everything public is reachable as ``import rarepixel as rp``. The package imports without torch (NumPy losses, xBD,
metrics); what needs torch is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import metrics, plot, xbd
from ._core import build_info

if TYPE_CHECKING:
    from . import functional, losses, ops, reference
    from .functional import cross_entropy, dice_focal_loss, dice_loss, focal_loss
    from .losses import CrossEntropyLoss, DiceFocalLoss, DiceLoss, FocalLoss

__version__: str = build_info()["version"]

__all__ = [
    "CrossEntropyLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "__version__",
    "build_info",
    "cross_entropy",
    "dice_focal_loss",
    "dice_loss",
    "focal_loss",
    "functional",
    "losses",
    "metrics",
    "ops",
    "plot",
    "reference",
    "xbd",
]

# Where the names live that need torch.
_LAZY = {
    **dict.fromkeys(["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss"], "functional"),
    **dict.fromkeys(["CrossEntropyLoss", "DiceFocalLoss", "DiceLoss", "FocalLoss"], "losses"),
}
_LAZY_MODULES = {"functional", "losses", "ops", "reference"}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
