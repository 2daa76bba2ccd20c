"""The xView2 score against a literal NumPy reading of the challenge's rules."""

from __future__ import annotations

import dataclasses

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
