"""Fused losses and data for finding rare pixels.

Everything public is reachable as ``import rarepixel as rp``. The package imports without torch (NumPy losses, xBD,
metrics); what needs torch is imported when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import metrics, numpy, plot, xbd
from ._core import build_info
from .weights import class_weights

if TYPE_CHECKING:
    from . import functional, losses, multi_scale, ops, reference
    from .functional import cross_entropy, dice_focal_loss, dice_loss, focal_loss, tversky_loss
    from .losses import CrossEntropyLoss, DiceFocalLoss, DiceLoss, FocalLoss, TverskyLoss
    from .multi_scale import MultiScaleLoss, Stage, multi_scale_loss

__version__: str = build_info()["version"]

__all__ = [
    "CrossEntropyLoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "MultiScaleLoss",
    "Stage",
    "TverskyLoss",
    "__version__",
    "build_info",
    "class_weights",
    "cross_entropy",
    "dice_focal_loss",
    "dice_loss",
    "focal_loss",
    "functional",
    "losses",
    "metrics",
    "multi_scale",
    "multi_scale_loss",
    "numpy",
    "ops",
    "plot",
    "reference",
    "tversky_loss",
    "xbd",
]

# Where the names live that need torch.
_LAZY = {
    **dict.fromkeys(["cross_entropy", "dice_focal_loss", "dice_loss", "focal_loss", "tversky_loss"], "functional"),
    **dict.fromkeys(["MultiScaleLoss", "Stage", "multi_scale_loss"], "multi_scale"),
    **dict.fromkeys(["CrossEntropyLoss", "DiceFocalLoss", "DiceLoss", "FocalLoss", "TverskyLoss"], "losses"),
}
_LAZY_MODULES = {"functional", "losses", "multi_scale", "ops", "reference"}


def _has_torch() -> bool:
    """Whether torch is installed: it is not imported for that."""
    try:
        return importlib.util.find_spec("torch") is not None
    except (ImportError, ValueError):  # something else goes by its name
        return False


# Without torch `from rarepixel import *` would stop at the first of these.
if not _has_torch():
    __all__[:] = [name for name in __all__ if name not in _LAZY and name not in _LAZY_MODULES]


def __getattr__(name: str) -> Any:
    module = name if name in _LAZY_MODULES else _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        # No AttributeError, of which `from rarepixel import ...` would drop the text.
        raise ImportError(f'rarepixel.{name} needs torch: pip install "rarepixel[torch]"') from error
    value = globals()[name] = found if name in _LAZY_MODULES else getattr(found, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
