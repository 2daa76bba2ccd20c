"""Faults that reached Python from below: each ended the process, hung, or went unseen."""

from __future__ import annotations

import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import rarepixel as rp


def without_targets(root: Path, copy: Path) -> Path:
    shutil.copytree(root, copy)
    shutil.rmtree(copy / "train/targets")
    return copy


@pytest.mark.parametrize("sampler", ["uniform", "rare"])
def test_an_epoch_may_be_of_any_length(root: Path, tmp_path: Path, sampler: str) -> None:
    root = shutil.copytree(root, tmp_path / "copy")  # a survey is kept there
    options = {"batch_size": 2, "crop": 32, "sampler": sampler, "output": "numpy"}
    endless = rp.xbd.XBDLoader(root, samples_per_epoch=10**18, **options)
    assert len(endless) == 10**18 // 2
    short = rp.xbd.XBDLoader(root, samples_per_epoch=40, **options)
    for one, other in zip(islice(endless, 20), short, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_candidates_that_would_take_minutes_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="candidates: got 100000000, expected 1 to 1024 places for each sample"):
        rp.xbd.XBDLoader(root, crop=32, sampler="best_of_k", candidates=10**8)


def test_one_broken_label_does_not_stop_a_survey_that_skips(root: Path, tmp_path: Path) -> None:
    copy = without_targets(root, tmp_path / "copy")
    broken = rp.xbd.index(copy).tiles[0]
    assert broken.post.label is not None
    broken.post.label.write_text("{")
    options = {"batch_size": 2, "crop": 32, "sampler": "rare", "output": "numpy"}
    with pytest.raises(ValueError, match=f"{broken.post.label.name}: not a label file"):
        rp.xbd.XBDLoader(copy, **options)
    with pytest.warns(UserWarning, match="which are not drawn: 1, the first: "):
        loader = rp.xbd.XBDLoader(copy, on_error="skip", **options)
    (skipped,) = loader._feed.survey_skipped
    assert broken.post.label.name in skipped
    assert len(list(loader)) == 4


def test_max_pixels_is_for_labels_too(root: Path, tmp_path: Path) -> None:
    copy = without_targets(root, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"\.json: 96 x 96 = 9216 pixels, more than max_pixels = 5"):
        rp.xbd.pixel_counts(copy, max_pixels=5)
    assert rp.xbd.pixel_counts(copy, max_pixels=9216).sum() <= 8 * 9216


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_named_pipe_is_a_problem_and_not_waited_for(root: Path, tmp_path: Path) -> None:
    copy = without_targets(root, tmp_path / "copy")
    label = rp.xbd.index(copy).tiles[0].post.label
    assert label is not None
    label.unlink()
    os.mkfifo(label)
    (problem,) = rp.xbd.index(copy).problems
    assert (problem.path, problem.message) == (label, "not a regular file")
    assert len(rp.xbd.index(copy).tiles) == 7
    with pytest.warns(UserWarning, match="not a regular file"):
        rp.xbd.pixel_counts(copy)
