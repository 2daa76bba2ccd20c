"""The xView2 score against a literal NumPy reading of the challenge's rules."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rarepixel as rp


def oracle(damage, target, building, building_target, valid, building_valid):
    """Masks and sums, term by term as the rules are written."""

    def f1(prediction, truth):
        right = (prediction & truth).sum()
        if right == 0:
            return 0.0
        precision, recall = right / prediction.sum(), right / truth.sum()
        return 2 * precision * recall / (precision + recall)

    localization = f1((building & building_valid), (building_target & building_valid))
    scored = (target >= 1) & valid
    damage, target = (damage * building)[scored], target[scored]
    classes = [f1(damage == label, target == label) for label in (1, 2, 3, 4)]
    harmonic = 4 / sum(1 / (value + 1e-6) for value in classes)
    return 0.3 * localization + 0.7 * harmonic, localization, harmonic, classes


def maps(seed, size=200, top=5):
    """Labels in which neighbouring classes are likely to be all there."""
    return np.random.default_rng(seed).integers(0, top, (1, size))


def assert_equal(score, expected):
    assert score.score == pytest.approx(expected[0], abs=1e-12)
    assert score.localization_f1 == pytest.approx(expected[1], abs=1e-12)
    assert score.damage_f1 == pytest.approx(expected[2], abs=1e-12)
    np.testing.assert_allclose(score.class_f1, expected[3], atol=1e-12)


@given(seed=st.integers(0, 2**32), size=st.integers(0, 300), ignored=st.sampled_from([0.0, 0.3, 1.0]))
@settings(deadline=None)
def test_one_map_equals_the_rules_and_the_confusion_matrix(seed, size, ignored):
    damage, target = maps(seed, size), maps(seed + 1, size)
    valid = np.random.default_rng(seed).random(target.shape) >= ignored
    masked = np.where(valid, target, 255)
    expected = oracle(damage, target, damage >= 1, target >= 1, valid, valid)
    assert_equal(rp.metrics.xview2_score(damage, masked), expected)
    matrix = rp.metrics.ConfusionMatrix(5)
    matrix.update(damage, masked)
    assert_equal(rp.metrics.XView2Score.from_confusion_matrix(matrix), expected)
    # Given as its own localization, the one map must score the same.
    assert_equal(rp.metrics.xview2_score(damage, masked, localization=damage), expected)


@given(seed=st.integers(0, 2**32), size=st.integers(0, 300), ignored=st.sampled_from([0.0, 0.3]))
@settings(deadline=None)
def test_two_maps_and_two_targets_equal_the_rules(seed, size, ignored):
    damage, target, building, building_target = (maps(seed + index, size) for index in range(4))
    random = np.random.default_rng(seed)
    valid, building_valid = random.random(target.shape) >= ignored, random.random(target.shape) >= ignored
    expected = oracle(damage, target, building >= 1, building_target >= 1, valid, building_valid)
    masked, building_masked = np.where(valid, target, 255), np.where(building_valid, building_target, 255)
    metric = rp.metrics.XView2Metric()
    metric.update(damage, masked, localization=building, localization_target=building_masked)
    assert_equal(metric.compute(), expected)


def test_counts_are_summed_before_they_are_scored():
    whole = rp.metrics.xview2_score(maps(1), maps(2), maps(3) > 0)
    parts = [rp.metrics.XView2Metric(), rp.metrics.XView2Metric()]
    for metric, half in zip(parts, (slice(0, 60), slice(60, 200)), strict=True):
        metric.update(maps(1)[:, half], maps(2)[:, half], (maps(3) > 0)[:, half])
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole
    parts[0].reset()
    assert parts[0].compute().score == pytest.approx(0.7 * 1e-6)


def counted(seed):
    """A metric with batches of one map and of two."""
    metric = rp.metrics.XView2Metric()
    metric.update(maps(seed), maps(seed + 1))
    metric.update(maps(seed + 2), maps(seed + 3), localization=maps(seed + 4), localization_target=maps(seed + 5))
    return metric


def test_add_merge_and_repr():
    first, second = counted(0), counted(10)
    total = first + second
    before = first.compute()
    first.merge(second)
    assert total.compute() == first.compute() != before
    assert repr(total) == "XView2Metric(ignore_index=255)"
    with pytest.raises(TypeError):
        first + 1
    for other in (3, rp.metrics.ConfusionMatrix(5)):
        with pytest.raises(TypeError, match=f"other: got {type(other).__name__}, expected an XView2Metric"):
            first.merge(other)


def test_state_survives_json_and_a_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    metric = counted(0)
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    for state in (json.loads(json.dumps(metric.state_dict())), torch.load(tmp_path / "state.pt", weights_only=True)):
        other = counted(20)  # whose counts are replaced
        other.load_state_dict(state)
        assert other.compute() == metric.compute()
        assert other.state_dict() == metric.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ignore_index": 0}, "state: got ignore_index 0, expected 255"),
        ({"damage": [[0]]}, r"state: got a damage of shape \(1, 1\), expected \(5, 5\)"),
        (
            {"localization": [[1, 2], [-1, 0]]},
            "state: got the localization .*-1.*, expected whole numbers of at least 0",
        ),
    ],
)
def test_a_state_that_holds_no_counts_is_refused(change, message):
    metric = counted(0)
    before = metric.state_dict()
    with pytest.raises(ValueError, match=message):
        metric.load_state_dict(before | change)
    assert metric.state_dict() == before
    with pytest.raises(ValueError, match=r"state: got keys \['ignore_index'\], expected localization and damage too"):
        metric.load_state_dict({"ignore_index": 255})


def test_a_perfect_score_is_a_little_above_1():
    labels = np.array([[0, 1, 2, 3, 4]])
    assert rp.metrics.xview2_score(labels, labels).score == pytest.approx(1.0000007, abs=1e-12)


def test_each_part_ignores_by_its_own_target():
    target, building_target = np.array([[255, 1, 1]]), np.array([[1, 255, 1]])
    metric = rp.metrics.XView2Metric()
    metric.update(np.array([[1, 1, 1]]), target, localization_target=building_target)
    state = metric.state_dict()
    assert (np.sum(state["localization"]), np.sum(state["damage"])) == (2, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"input": np.zeros((1, 4, 6))},
            ValueError,
            r"input: got float64 of shape \(1, 4, 6\), .* logits \(N, 5, \*spatial",
        ),
        (
            {"input": np.zeros((1, 6, 6))},
            ValueError,
            r"input: got float64 of shape \(1, 6, 6\), .* logits \(N, 5, \*spatial",
        ),
        (
            {"localization": np.zeros((1, 5, 6))},
            ValueError,
            r"localization: got float64 of shape .* logits \(N, 2, \*spatial",
        ),
        (
            {"localization": np.zeros((1, 6))},
            ValueError,
            r"localization: got float64 of shape \(1, 6\), expected logits",
        ),
        ({"localization": np.zeros(6)}, ValueError, r"localization: got float64 of shape \(6,\), expected logits"),
        ({"target": np.zeros((1, 6))}, TypeError, r"target: got float64, expected labels in bool, uint8, int16, int32"),
        ({"localization_target": np.zeros((1, 6))}, TypeError, r"localization_target: got float64, expected labels"),
    ],
)
def test_logits_have_their_classes_and_targets_are_labels(change, error, message):
    labels = np.zeros((1, 6), dtype=np.uint8)
    metric = rp.metrics.XView2Metric()
    with pytest.raises(error, match=message):
        metric.update(**{"input": labels, "target": labels, "localization": labels} | change)
    assert np.sum(metric.state_dict()["damage"]) == 0


def test_by_hand():
    """Four building pixels, one of each class; two found; one false building pixel."""
    target = np.array([[1, 2, 3, 4, 0, 0]])
    damage = np.array([[1, 2, 0, 1, 1, 0]])
    score = rp.metrics.xview2_score(damage, target)
    assert score.localization_f1 == pytest.approx(6 / (6 + 1 + 1))
    # No damage: 1 right, 1 false among building pixels; the false building on background is not scored here.
    np.testing.assert_allclose(score.class_f1, [2 / 3, 1, 0, 0])
    assert score.damage_f1 == pytest.approx(4 / (1 / (2 / 3) + 1 + 2e6), rel=1e-5)
    assert score.score == pytest.approx(0.3 * 0.75 + 0.7 * score.damage_f1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        score.score = 1.0


def test_logits_and_torch_give_the_same_as_labels():
    torch = pytest.importorskip("torch")
    logits = torch.randn(2, 5, 8, 9, generator=torch.Generator().manual_seed(0))
    building = torch.randn(2, 2, 8, 9, generator=torch.Generator().manual_seed(1)).bfloat16()
    target = torch.randint(0, 5, (2, 8, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    from_logits = rp.metrics.xview2_score(logits, target, localization=building)
    labels, buildings = logits.argmax(1).numpy(), building.float().argmax(1).numpy()
    assert from_logits == rp.metrics.xview2_score(labels, target.numpy(), localization=buildings)
    assert rp.metrics.xview2_score(logits, target) == rp.metrics.xview2_score(labels, target.numpy())


def test_bad_input_is_named():
    labels = np.zeros((1, 4), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"localization: got shape \(1, 3\), expected \(1, 4\), as input"):
        rp.metrics.xview2_score(labels, labels, localization=labels[:, :3])
    with pytest.raises(ValueError, match=r"localization_target: got shape \(4,\), expected \(1, 4\), as input"):
        rp.metrics.xview2_score(labels, labels, localization_target=labels[0])
    with pytest.raises(ValueError, match=r"target: got label 5 at position \[0, 0\], expected 0 to 4"):
        rp.metrics.xview2_score(labels, labels + 5)
    with pytest.raises(ValueError, match="other: got ignore_index 0, expected 255"):
        rp.metrics.XView2Metric().merge(rp.metrics.XView2Metric(ignore_index=0))
    with pytest.raises(ValueError, match="matrix: got 4 classes, expected the 5 of xBD"):
        rp.metrics.XView2Score.from_confusion_matrix(rp.metrics.ConfusionMatrix(4))
