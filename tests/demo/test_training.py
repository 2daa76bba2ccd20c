"""A run interrupted and gone on with is the run that was not; torch's losses give the same run as ours."""

from __future__ import annotations

import math

import pytest
import torch

import rarepixel as rp
from rarepixel.demo import checkpoint, data
from rarepixel.demo.losses import STAGES
from rarepixel.demo.training import Training, deterministic

TIMES = ("seconds", "loss_seconds")


def start(options):
    return Training(options, data.load(data.synthetic_root(options, lambda made: None), options))


def finish(training, stop_after=math.inf):
    """Train to the end, or until so many batches and tiles were done."""
    done = 0

    def advance():
        nonlocal done
        done += 1

    def interrupted():
        return done >= stop_after

    while not training.finished:
        if not (training.train_epoch(interrupted, advance) and training.validate(interrupted, advance)):
            return
        if interrupted():
            return


def numbers(training):
    """The history without the times, as text, in which every digit counts and nan equals nan."""
    return [str({name: value for name, value in row.items() if name not in TIMES}) for row in training.history]


@pytest.fixture
def whole(tiny):
    with deterministic(0):
        training = start(tiny())
        finish(training)
    return training


# An epoch is 3 batches and 2 tiles: stop in the batches, right before and in validation, between epochs, in the next.
@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5, 6])
def test_a_run_gone_on_with_is_the_run_that_was_not_interrupted(tiny, whole, stop_after):
    path = tiny().checkpoint
    with deterministic(0):
        training = start(tiny())
        finish(training, stop_after)
        assert not training.finished
        checkpoint.save(path, training.state_dict())
    with deterministic(123):  # whatever was random before
        training = start(tiny())
        training.load_state_dict(checkpoint.load(path))
        finish(training)
    assert numbers(training) == numbers(whole)
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, training.model.state_dict()[name]), name


@pytest.mark.parametrize("multi_scale", [False, True])
def test_torch_losses_give_the_same_curves(tiny, multi_scale):
    runs = []
    for losses in ("rarepixel", "torch"):
        with deterministic(0):
            runs.append(start(tiny(losses=losses, epochs=8, multi_scale=multi_scale)))
            finish(runs[-1])
    for name in [name for name in runs[0].history[0] if "_loss" in name]:
        ours, theirs = ([row[name] for row in run.history] for run in runs)
        assert theirs == pytest.approx(ours, rel=1e-10)  # the same gradients, bit for bit
        assert ours[-1] < ours[0]


def test_a_row_holds_what_the_table_shows(whole):
    row = whole.history[-1]
    assert row["epoch"] == 2
    assert 0 < row["loss_seconds"] < row["seconds"]
    assert 0 <= row["xview2_score"] <= 1
    assert 0 <= row["accuracy"] <= 1
    assert set(row) >= {"dice_background", "recall_destroyed", "damage_f1", "localization_f1"}


def test_the_parts_of_a_multi_scale_loss_are_logged_and_add_up(tiny):
    with deterministic(0):
        training = start(tiny(multi_scale=True, epochs=1))
        finish(training)
    (row,) = training.history
    parts = [row[f"train_loss_{scale}"] for scale in ("1/8", "1/4", "1")]
    assert sum(parts) == pytest.approx(row["train_loss"], rel=1e-12)
    assert min(parts) > 0


def test_the_stages_are_those_of_the_course():
    for stage, course in zip(STAGES, rp.MultiScaleLoss().stages, strict=True):
        assert (stage["scale"], stage["weight"]) == (course.scale, course.weight)
        assert ("focal" in stage, "dice" in stage) == (course.focal is not None, course.dice is not None)


def test_determinism_is_switched_back():
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic(0):
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"value": 1})
    with pytest.raises(RuntimeError, match="disk"):
        checkpoint.write_atomically(path, lambda file: (file.write(b"half"), fail("disk")))
    assert checkpoint.load(path)["value"] == 1


def fail(text):
    raise RuntimeError(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model"), "it lacks 'model'"),
        (lambda state: state["model"].popitem(), "Error.* in loading state_dict"),
        (lambda state: state.update(random="junk"), "expected .*ByteTensor"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_named(tiny, change, message):
    training = start(tiny())
    state = training.state_dict()
    change(state)
    with (
        pytest.raises(ValueError, match=rf"checkpoint.pt: not a whole checkpoint of rarepixel demo: .*{message}"),
        checkpoint.whole(tiny().checkpoint),
    ):
        training.load_state_dict(state)


def test_a_run_does_not_go_on_with_fewer_tiles(tiny):
    state = start(tiny()).state_dict()
    tile = rp.xbd.index(tiny().output / "tiles").tiles[0]
    for file in (tiny().output / "tiles" / tile.split).rglob(f"{tile.name}*"):
        file.unlink()
    message = r"tiles: got 6 tiles to train on and 1 to validate, expected the 6 and 2 of the checkpoint; start over"
    with pytest.raises(ValueError, match=message):
        start(tiny()).load_state_dict(state)


def test_a_loss_that_is_nan_ends_the_run_before_it_reaches_the_weights(tiny):
    training = start(tiny(lr=0.5))
    with torch.no_grad():
        training.model.head.bias.fill_(math.nan)
    before = training.model.encoder[0][0][0].weight.clone()
    with pytest.raises(ValueError, match=r"loss: got nan in epoch 1, batch 1, expected a finite number; --lr is 0.5"):
        finish(training)
    assert torch.equal(training.model.encoder[0][0][0].weight, before)


def test_what_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"checkpoint.pt: not a readable checkpoint"):
        checkpoint.load(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match=r"checkpoint.pt: not a checkpoint of this version"):
        checkpoint.load(path)
