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
    ("then", "given"),
    [
        # Larger than the default size, and smaller than the default crop.
        ({"size": 320, "crop": 288}, {"crop": 288}),
        ({"size": 64, "crop": 64}, {"size": 64}),
        ({"data": Path("xbd"), "crop": 512}, {"data": Path("xbd/../xbd"), "crop": 512}),
    ],
)
def test_what_agrees_with_the_checkpoint_may_be_given_again(then, given):
    saved = Options(**then).settings()
    assert resolve(given, saved).settings() == saved


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


@pytest.mark.parametrize("name", ["tiles", "size"])
def test_what_describes_made_tiles_is_not_for_other_data(tmp_path, name):
    message = f"--{name}: got 256, expected it to be left out with --data: it is for tiles that the demo makes"
    with pytest.raises(ValueError, match=message):
        resolve({"data": tmp_path, name: 256})
    saved = Options(data=tmp_path, **{name: 256}).settings()
    with pytest.raises(ValueError, match=message):
        resolve({name: 256}, saved)


def test_other_data_than_the_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--data: got .*, but .*checkpoint.pt was made with None"):
        resolve({"data": tmp_path}, Options().settings())
