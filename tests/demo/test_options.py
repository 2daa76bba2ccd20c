"""What a run takes from the command line, from the checkpoint and from the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from rarepixel.demo.options import DEFAULTS, Options, resolve


def test_given_before_default():
    assert resolve({"epochs": 3, "lr": None}) == Options(epochs=3)
    assert resolve({}) == DEFAULTS


def test_a_checkpoint_comes_before_the_defaults_but_does_not_fix_output_and_workers(tmp_path):
    saved = Options(output=Path("then"), epochs=3, data=tmp_path, workers=2).settings()
    options = resolve({"output": Path("now"), "epochs": 3, "lr": None}, saved)
    assert options == Options(output=Path("now"), epochs=3, data=tmp_path, workers=0)


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 4), ("losses", "torch"), ("seed", 1), ("lr", 1.0), ("tiles", 9)]
)
def test_a_setting_that_differs_from_the_checkpoint_is_named(name, value):
    saved = Options().settings()
    with pytest.raises(
        ValueError, match=rf"--{name}: got {value}, but .*checkpoint.pt was made with {saved[name]}; leave"
    ):
        resolve({name: value}, saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "--seed: got -1, expected at least 0"),
        ({"seed": 2**63}, "--seed: got 9223372036854775808, expected at most 9223372036854775807"),
        ({"lr": float("inf")}, "--lr: got inf, expected a number above 0 that is finite"),
        ({"lr": float("nan")}, "--lr: got nan, expected a number above 0 that is finite"),
    ],
)
def test_a_bad_value_is_named_by_its_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        Options(**changes)


def test_other_data_than_the_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--data: got .*, but .*checkpoint.pt was made with None"):
        resolve({"data": tmp_path}, Options().settings())
