"""Roots that are incomplete are reported, and wrong ones refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import rarepixel as rp


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A root of one's own to break."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def test_tiles_are_sorted_and_complete(root: Path) -> None:
    found = rp.xbd.index(root)
    assert found.problems == ()
    assert len(found.tiles) == 8
    names = [tile.name for tile in found.tiles]
    assert names == sorted(names)
    for tile in found.tiles:
        assert tile.split == "train"
        assert tile.name.rpartition("_")[0] == tile.disaster
        for half, phase in ((tile.pre, "pre"), (tile.post, "post")):
            assert half.image == root / "train/images" / f"{tile.name}_{phase}_disaster.png"
            assert half.label == root / "train/labels" / f"{tile.name}_{phase}_disaster.json"
            assert half.target == root / "train/targets" / f"{tile.name}_{phase}_disaster_target.png"


def test_a_missing_half_is_reported(copy: Path) -> None:
    tile = rp.xbd.index(copy).tiles[2]
    tile.post.image.unlink()
    found = rp.xbd.index(copy)
    assert [str(problem) for problem in found.problems] == [f"{tile.post.image}: missing"]
    assert tile.name not in {tile.name for tile in found.tiles}
    assert len(found.tiles) == 7
    with pytest.warns(UserWarning, match=f"1 problems, the first: {tile.post.image}: missing"):
        assert len(rp.xbd.XBDDataset(copy)) == 7


def test_a_missing_mask_is_reported(copy: Path) -> None:
    tile = rp.xbd.index(copy).tiles[2]
    tile.post.target.unlink()
    assert rp.xbd.index(copy).problems == ()
    tile.post.label.unlink()
    found = rp.xbd.index(copy)
    assert [str(problem) for problem in found.problems] == [f"{tile.post.label}: missing, and so is the target"]
    assert len(found.tiles) == 7


def test_labels_stand_in_for_targets(copy: Path) -> None:
    with_targets = rp.xbd.pixel_counts(copy)
    shutil.rmtree(copy / "train/targets")
    np.testing.assert_array_equal(rp.xbd.pixel_counts(copy), with_targets)


def test_wrong_roots(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rp.xbd.index(tmp_path / "absent")
    with pytest.raises(ValueError, match="has no <split>/images folder: not a root in the xBD layout"):
        rp.xbd.index(copy / "train")
    with pytest.raises(ValueError, match=r'splits: got "hold", expected a folder of .* with an images folder: train'):
        rp.xbd.index(copy, ["train", "hold"])
    with pytest.raises(TypeError, match=r"splits: got 'train', expected a sequence of names such as \['train'\]"):
        rp.xbd.index(copy, "train")


def test_a_root_without_complete_tiles(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"splits: got \[\], expected at least one name, or None for all"):
        rp.xbd.pixel_counts(copy, [])
    images = [tile.pre.image for tile in rp.xbd.index(copy).tiles]
    for image in images:
        image.unlink()
    with (
        pytest.warns(UserWarning, match="8 problems"),
        pytest.raises(ValueError, match=rf"no complete tile was found \(8 problems, the first: {images[0]}: missing"),
    ):
        rp.xbd.pixel_counts(copy)
    shutil.rmtree(copy / "train")
    (copy / "train/images").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{copy}: no complete tile was found$"):
        rp.xbd.XBDDataset(copy, disasters=["joplin-tornado"])


def test_disasters(root: Path) -> None:
    names = {tile.disaster for tile in rp.xbd.index(root).tiles}
    assert len(names) == 3
    only = rp.xbd.XBDDataset(root, disasters=["synthetic-wind"])
    rest = rp.xbd.XBDDataset(root, exclude_disasters=["synthetic-wind"])
    assert {tile.disaster for tile in only.tiles} == {"synthetic-wind"}
    assert {tile.disaster for tile in rest.tiles} == names - {"synthetic-wind"}
    assert len(only) + len(rest) == 8
    total = only.pixel_counts() + rest.pixel_counts()
    np.testing.assert_array_equal(total, rp.xbd.pixel_counts(root))
    np.testing.assert_array_equal(only.pixel_counts(), rp.xbd.pixel_counts(root, disasters=["synthetic-wind"]))
    with pytest.raises(
        ValueError, match="disasters: got joplin, expected some of synthetic-fire, synthetic-flood, synth"
    ):
        rp.xbd.XBDDataset(root, disasters=["joplin"])
    with pytest.raises(ValueError, match="no tile is left of 8; its disasters are synthetic-fire"):
        rp.xbd.pixel_counts(root, exclude_disasters=names)


def test_counts_are_those_of_the_masks(root: Path) -> None:
    masks = [rp.xbd.read_target(tile.post.target) for tile in rp.xbd.index(root).tiles]
    expected = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks)
    counts = rp.xbd.pixel_counts(root)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, expected[:5])


def test_a_damaged_mask_ends_the_count(copy: Path) -> None:
    target = rp.xbd.index(copy).tiles[5].post.target
    target.write_bytes(target.read_bytes()[:60])
    with pytest.raises(ValueError, match=target.name):
        rp.xbd.pixel_counts(copy)


def test_the_real_root(real: Path) -> None:
    found = rp.xbd.index(real)
    assert found.problems == ()
    splits = {tile.name: tile.split for tile in found.tiles}
    assert splits == {
        "socal-fire_00000000": "test",
        "socal-fire_00000031": "test",
        "joplin-tornado_00000000": "tier3",
        "guatemala-volcano_00000000": "train",
        "guatemala-volcano_00000016": "train",
    }
    assert rp.xbd.pixel_counts(real, un_classified="background").sum() == 5 * 1024 * 1024


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are Unix's")
def test_a_named_pipe_is_a_problem_and_not_waited_for(copy: Path) -> None:
    shutil.rmtree(copy / "train/targets")
    label = rp.xbd.index(copy).tiles[0].post.label
    assert label is not None
    label.unlink()
    os.mkfifo(label)
    (problem,) = rp.xbd.index(copy).problems
    assert (problem.path, problem.message) == (label, "not a regular file")
    assert len(rp.xbd.index(copy).tiles) == 7
    with pytest.warns(UserWarning, match="not a regular file"):
        rp.xbd.pixel_counts(copy)
