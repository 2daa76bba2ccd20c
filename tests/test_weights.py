"""Class weights from counts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rarepixel as rp

METHODS = ["inverse_frequency", "median_frequency", "effective_number", "sqrt_inverse"]


@given(counts=st.lists(st.integers(0, 10**12), min_size=1, max_size=8).filter(any), method=st.sampled_from(METHODS))
def test_rarer_never_weighs_less(counts: list[int], method: str) -> None:
    weights = rp.class_weights(counts, method)
    assert np.isfinite(weights).all()
    assert ((weights == 0) == (np.array(counts) == 0)).all()
    present = sorted((n, w) for n, w in zip(counts, weights, strict=True) if n)
    assert all(a[1] >= b[1] * (1 - 1e-12) for a, b in itertools.pairwise(present))


def test_formulas_by_hand() -> None:
    counts = [60, 30, 10]
    assert rp.class_weights(counts).tolist() == pytest.approx([100 / 180, 100 / 90, 100 / 30])
    assert rp.class_weights(counts, "sqrt_inverse").tolist() == pytest.approx(np.sqrt([100 / 180, 100 / 90, 100 / 30]))
    assert rp.class_weights(counts, "median_frequency").tolist() == pytest.approx([0.5, 1.0, 3.0])
    raw = np.array([0.1 / (1 - 0.9**n) for n in counts])
    assert rp.class_weights(counts, "effective_number", beta=0.9).tolist() == pytest.approx(raw / raw.mean())


def test_inverse_frequency_balances_the_classes() -> None:
    counts = np.array([96_000, 2_700, 100, 100, 100])
    shares = rp.class_weights(counts) * counts
    assert shares == pytest.approx(np.full(5, counts.sum() / 5))


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([1, 2], {"method": "inverse"}, "method: got 'inverse', expected one of 'inverse_frequency'"),
        ([1, -2], {}, "counts: got .*, expected one finite number of at least 0"),
        ([[1, 2]], {}, "counts: got .*, expected one finite number of at least 0"),
        ([1, float("nan")], {}, "counts: got .*, expected one finite number"),
        ([0, 0], {}, "counts: got .*, expected a pixel of at least one class"),
        ([1, 2], {"beta": 1.0}, r"beta: got 1.0, expected a number in \(0, 1\)"),
    ],
)
def test_bad_input(counts: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rp.class_weights(counts, **options)
