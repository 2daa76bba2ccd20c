"""What holds for every test file."""

from __future__ import annotations

import os

from hypothesis import settings

# CI asks whether a change broke something: it draws the same examples every time. At a desk every run draws new ones.
settings.register_profile("ci", derandomize=True)
settings.register_profile("desk", print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")
