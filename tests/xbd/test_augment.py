"""Augment: what it refuses; what it does is tested with the dataset and the loader."""

from __future__ import annotations

import numpy as np
import pytest

import rarepixel as rp


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"scale": 1.0}, ValueError, "scale: got 1.0, expected 0 to 0.9"),
        ({"hue": float("nan")}, ValueError, "hue: got nan, expected 0 to 0.5"),
        ({"shift": 0.5}, ValueError, "shift: got 0.5, expected a whole number from 0 to 4096"),
        ({"scale": "x"}, TypeError, "scale: got 'x', expected a number"),
        ({"brightness": "0.1"}, TypeError, "brightness: got '0.1', expected a number"),
        ({"shift": None}, TypeError, "shift: got None, expected a number"),
    ],
)
def test_wrong_values(wrong: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rp.xbd.Augment(**wrong)


def test_numbers_of_numpy() -> None:
    assert rp.xbd.Augment(scale=np.float32(0.5), shift=np.int64(3)) == rp.xbd.Augment(scale=0.5, shift=3)
