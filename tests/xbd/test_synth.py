"""Made tiles are in xBD's layout, the same every time, as lopsided as xBD, and show their damage."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import rarepixel as rp


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_arguments_give_the_same_bytes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAREPIXEL_NUM_THREADS", "3")
    rp.xbd.synthesize(tmp_path / "again", tiles=8, seed=3, size=96)
    assert digest(tmp_path / "again") == digest(root)


def test_a_tile_does_not_depend_on_the_others(root: Path, tmp_path: Path) -> None:
    rp.xbd.synthesize(tmp_path, tiles=3, seed=3, size=96)
    assert digest(tmp_path).items() < digest(root).items()


@pytest.mark.parametrize("other", [{"seed": 4}, {"split": "test"}, {"size": 97}, {"un_classified": 0.9}], ids=str)
def test_each_argument_counts(root: Path, tmp_path: Path, other: dict) -> None:
    rp.xbd.synthesize(tmp_path, **({"tiles": 8, "seed": 3, "size": 96} | other))
    assert not set(digest(tmp_path).values()) >= set(digest(root).values())


def test_the_label_has_the_keys_of_xbd(root: Path) -> None:
    tile = next(tile for tile in rp.xbd.index(root).tiles if tile.disaster == "synthetic-flood")
    for half, phase in ((tile.pre, "pre"), (tile.post, "post")):
        label = json.loads(half.label.read_text())
        assert len(label["features"]["lng_lat"]) == len(label["features"]["xy"])
        metadata = label["metadata"]
        assert {key: metadata[key] for key in ("disaster", "disaster_type", "width", "height", "img_name")} == {
            "disaster": "synthetic-flood",
            "disaster_type": "flooding",
            "width": 96,
            "height": 96,
            "img_name": f"{tile.name}_{phase}_disaster.png",
        }
        assert 0.5 < metadata["gsd"] < 10
        for feature in label["features"]["xy"]:
            assert feature["properties"]["feature_type"] == "building"
            assert ("subtype" in feature["properties"]) == (phase == "post")
    pre, post = (rp.xbd.read_label(half.label) for half in (tile.pre, tile.post))
    assert [feature.uid for feature in pre.features] == [feature.uid for feature in post.features]


def test_the_post_image_is_moved_a_little(root: Path) -> None:
    for tile in rp.xbd.index(root).tiles:
        pre, post = (rp.xbd.read_label(half.label).features for half in (tile.pre, tile.post))
        for before, after in zip(pre, post, strict=True):
            shift = after.polygons[0][0] - before.polygons[0][0]
            assert 0.2 < np.hypot(*shift[0]) < 3
            np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-4)


def test_targets_are_the_labels_drawn(root: Path) -> None:
    for tile in rp.xbd.index(root).tiles:
        for half in (tile.pre, tile.post):
            np.testing.assert_array_equal(rp.xbd.read_target(half.target), rp.xbd.rasterize_label(half.label))


def test_every_pair_of_tiles_has_damage(tmp_path: Path) -> None:
    rp.xbd.synthesize(tmp_path, tiles=16, size=256)
    tiles = sorted(rp.xbd.index(tmp_path).tiles, key=lambda tile: tile.name[-8:])
    damaged = [np.isin(mask, (2, 3, 4)).any() for mask in (rp.xbd.read_target(tile.post.target) for tile in tiles)]
    assert [sum(damaged[first : first + 2]) for first in range(0, 16, 2)] == [1] * 8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_class_mix_is_xbds(tmp_path: Path, seed: int) -> None:
    rp.xbd.synthesize(tmp_path, tiles=16, seed=seed, size=256)
    counts = rp.xbd.pixel_counts(tmp_path)
    background, none, *damage = counts / counts.sum()
    assert 0.955 < background < 0.98
    assert 0.018 < none < 0.036
    assert all(0.0004 < share < 0.002 for share in damage), damage


def test_the_share_of_un_classified(tmp_path: Path) -> None:
    for share, expected in ((0.0, {0, 1, 2, 3, 4}), (1.0, {0, 255})):
        rp.xbd.synthesize(tmp_path / str(share), tiles=4, size=256, un_classified=share)
        masks = [rp.xbd.read_target(tile.post.target) for tile in rp.xbd.index(tmp_path / str(share)).tiles]
        assert set(np.unique(masks).tolist()) == expected


def test_damage_shows(tmp_path: Path) -> None:
    """Damaged buildings change more between pre and post than the others, and the worse the more."""
    rp.xbd.synthesize(tmp_path, tiles=32, size=256, un_classified=0.0)
    changes: dict[int, list[float]] = {1: [], 2: [], 3: [], 4: []}
    for tile in rp.xbd.index(tmp_path).tiles:
        pre, post = (rp.xbd.read_image(half.image).astype(float) for half in (tile.pre, tile.post))
        # The light of the day differs: compare what is left once the mean of each channel is equal.
        change = np.abs((post - post.mean((0, 1))) - (pre - pre.mean((0, 1)))).mean(2)
        mask = rp.xbd.read_target(tile.post.target)
        for value, seen in changes.items():
            seen.extend(change[mask == value])
    none, minor, major, destroyed = (np.mean(changes[value]) for value in (1, 2, 3, 4))
    assert minor > 1.5 * none
    assert major > 1.1 * minor
    assert destroyed > 1.5 * none


def test_progress_is_called_on_this_thread(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    rp.xbd.synthesize(tmp_path, tiles=5, size=32, progress=lambda n: calls.append((n, threading.get_ident())))
    assert calls == [(1, threading.get_ident())] * 5


def test_an_error_in_progress_ends_the_run(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        rp.xbd.synthesize(tmp_path, tiles=10_000, size=32, progress=stop)
    # What is there is whole.
    assert len(rp.xbd.index(tmp_path).tiles) < 10_000
    rp.xbd.pixel_counts(tmp_path)


def test_ctrl_c_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        rp.xbd.synthesize(tmp_path, tiles=10_000, size=32, progress=lambda _: os.kill(os.getpid(), signal.SIGINT))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tiles": -1}, "tiles: got -1, expected 0 to"),
        ({"size": 31}, "size: got 31, expected 32 to 4096"),
        ({"size": 4097}, "size: got 4097, expected 32 to 4096"),
        ({"seed": -1}, "seed: got -1, expected 0 to"),
        ({"un_classified": -0.1}, "un_classified: got -0.1, expected a share of 0 to 1"),
        ({"un_classified": float("nan")}, "un_classified: got NaN, expected a share of 0 to 1"),
        ({"split": "a/b"}, 'split: got "a/b", expected the name of a folder'),
    ],
)
def test_wrong_arguments(tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rp.xbd.synthesize(tmp_path, **({"tiles": 1, "size": 64} | wrong))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file"):
        rp.xbd.synthesize(tmp_path / "file", tiles=1, size=64)
