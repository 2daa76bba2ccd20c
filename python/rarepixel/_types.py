"""Types of arguments that several modules have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

# One weight for each class, also as `class_weights` gives them; None for none.
ClassWeights: TypeAlias = Tensor | Sequence[float] | NDArray[Any] | None
