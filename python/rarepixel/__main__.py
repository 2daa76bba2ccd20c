"""``python -m rarepixel``."""

from __future__ import annotations

from .cli import main

main()
