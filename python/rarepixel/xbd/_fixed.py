"""Attributes that say what Rust was given."""

from __future__ import annotations

import inspect
from typing import ClassVar


class Fixed:
    """The constructor's arguments, and `tiles`, cannot be set once it has ended: they would say what is not so."""

    _fixed: ClassVar[frozenset[str]]
    _made = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if Fixed in cls.__bases__:  # those below it may have arguments of their own
            cls._fixed = frozenset({*inspect.signature(cls.__init__).parameters, "tiles"} - {"self"})

    def __setattr__(self, name: str, value: object) -> None:
        if self._made and name in self._fixed:
            kind = type(self).__name__
            expected = f"another {kind} made with what you want"
            if name == "tiles":
                expected = f"another {kind} with splits, disasters or exclude_disasters, or torch's Subset of a dataset"
            raise AttributeError(f"{name}: cannot be changed, expected {expected}")
        super().__setattr__(name, value)
