"""Fused losses and data for finding rare pixels.

Everything public is reachable as ``import rarepixel as rp``. The package imports without torch (NumPy losses, xBD,
metrics); what needs torch is imported when it is first used.
"""

from __future__ import annotations

from . import metrics
from ._core import build_info

__version__: str = build_info()["version"]

__all__ = ["__version__", "build_info", "metrics"]
