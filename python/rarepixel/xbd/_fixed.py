"""Attributes that say what Rust was given."""

from __future__ import annotations

from typing import ClassVar


class Fixed:
    """Attributes that can be set once: to set them later would change what they say, and nothing else."""

    _fixed: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._fixed and name in self.__dict__:
            kind = type(self).__name__
            expected = f"another {kind} made with what you want"
            if name == "tiles":
                expected = f"another {kind} with splits, disasters or exclude_disasters, or torch's Subset of a dataset"
            raise AttributeError(f"{name}: cannot be changed, expected {expected}")
        super().__setattr__(name, value)
