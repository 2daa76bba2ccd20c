"""``rarepixel demo``: train a Siamese damage model on synthetic or real xBD tiles, and see what it learns.

The parts are ordinary PyTorch code to read and to copy from: :mod:`.model`, :mod:`.losses`, :mod:`.data`, :mod:`.training`.
"""

from __future__ import annotations

from .options import DEFAULTS, LOSSES, Options, resolve
from .run import run

__all__ = ["DEFAULTS", "LOSSES", "Options", "resolve", "run"]
