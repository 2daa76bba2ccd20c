"""Class weights from counts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
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
        ([1, 2], {"method": ["inverse"]}, r"method: got \['inverse'\], expected one of 'inverse_frequency'"),
        ([1e-320, 1], {}, r"counts: got \[1e-320, 1\], expected numbers near enough to each other for finite weights"),
    ],
)
def test_bad_input(counts: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        rp.class_weights(counts, **options)


@pytest.mark.parametrize(
    "counts",
    [
        ["a"],
        ["1", "2"],
        {0: 5},
        [1j, 2],
        np.array([1 + 3j, 2]),
        [[1], [1, 2]],
        [10**400, 1],
        np.array(["2020"], "M8[Y]"),
        torch.ones(2, device="meta"),
        np.ma.masked_array([1, 2], [False, True]),
    ],
)
def test_counts_that_are_no_numbers(counts: Any) -> None:
    with pytest.raises(TypeError, match=r"(?s)counts: got .*, expected one finite number of at least 0 for each class"):
        rp.class_weights(counts)


@pytest.mark.parametrize("beta", ["x", "0.9", None, [0.9]])
def test_a_beta_that_is_no_number(beta: Any) -> None:
    with pytest.raises(TypeError, match=r"beta: got .*, expected a number"):
        rp.class_weights([1, 2], beta=beta)


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([3.0, 1.0], requires_grad=True), torch.tensor([3, 1]), torch.tensor([3.0, 1.0]).bfloat16()],
    ids=str,
)
def test_counts_in_a_tensor(tensor: torch.Tensor) -> None:
    np.testing.assert_array_equal(rp.class_weights(tensor), rp.class_weights([3, 1]))


@pytest.mark.parametrize(
    ("counts", "method", "expected"),
    [
        *(([1e308] * 4, method, [1.0] * 4) for method in METHODS),
        *(([1e-308] * 4, method, [1.0] * 4) for method in METHODS),
        ([1e-20, 1e300], "sqrt_inverse", [0.5**0.5 * 1e160, 0.5**0.5]),
        ([1e-308, 1e-308, 1e300], "median_frequency", [1.0, 1.0, 0.0]),
    ],
)
def test_counts_near_the_ends_of_what_a_float_holds(counts: list[float], method: str, expected: list[float]) -> None:
    assert rp.class_weights(counts, method).tolist() == pytest.approx(expected, rel=1e-9, abs=0)
