"""What is done to whole roots, as functions and from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rarepixel as rp


@pytest.fixture
def source(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "source")


def xbd(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rarepixel.xbd.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def damage(tile: rp.xbd.Tile, tmp_path: Path) -> dict[str, str]:
    """Damages files of one tile in many ways; gives what should be said of which."""
    tile.pre.image.write_bytes(tile.pre.image.read_bytes()[:-20])
    Image.fromarray(np.zeros((96, 90), np.uint8)).save(tile.post.target)
    label = json.loads(tile.post.label.read_text())
    label["features"]["xy"][0]["wkt"] = "POLYGON ((500 500, 600 500, 600 600))"
    tile.post.label.write_text(json.dumps(label))
    tile.pre.label.write_text("{}")
    return {
        tile.pre.image.name: "not a whole PNG: the file ends too early",
        tile.post.target.name: "90 x 96 pixels, expected 96 x 96 as its tile has",
        tile.post.label.name: "reaches more than an image's size beyond it",
        tile.pre.label.name: "not a label file in the xBD format: ",
    }


def test_check(source: Path, tmp_path: Path) -> None:
    seen = []
    assert rp.xbd.check(source, progress=seen.append) == (8, ())
    assert seen == [1] * 8
    ended = xbd("check", source)
    assert (ended.returncode, ended.stdout) == (0, "8 complete tiles, 0 problems\n")
    tiles = rp.xbd.index(source).tiles
    expected = damage(tiles[2], tmp_path)
    tiles[5].post.image.unlink()
    expected[tiles[5].post.image.name] = "missing"
    count, problems = rp.xbd.check(source)
    assert count == 7
    assert {problem.path.name for problem in problems} == set(expected)
    assert all(expected[problem.path.name] in problem.message for problem in problems)
    ended = xbd("check", source)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [*map(str, problems), "7 complete tiles, 5 problems"]
    absent = xbd("check", source / "absent")
    assert absent.returncode == 2
    assert "No such file" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_check_of_a_pack(source: Path, tmp_path: Path) -> None:
    rp.xbd.pack(source, tmp_path / "out")
    assert rp.xbd.check(tmp_path / "out") == (8, ())
    path = rp.xbd.index(tmp_path / "out").tiles[3].post.image
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    _, (problem,) = rp.xbd.check(tmp_path / "out")
    assert problem.path == path
    assert problem.message.startswith("rows from 64 of pre are damaged (checksum)")


def test_a_root_without_complete_tiles_is_told(tmp_path: Path) -> None:
    """Such as a folder of JPEGs: nothing to check is not the same as nothing wrong."""
    (tmp_path / "train/images").mkdir(parents=True)
    for command in ("check", "masks"):
        ended = xbd(command, tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.strip() == f"rarepixel xbd {command}: {tmp_path}: no complete tile was found"
    for command in (["stats", tmp_path], ["show", tmp_path, "joplin-tornado_1"], ["pack", tmp_path, tmp_path / "out"]):
        ended = xbd(*command)
        assert ended.returncode == 2
        assert ended.stderr.strip() == f"rarepixel xbd {command[0]}: {tmp_path}: no complete tile was found"


def test_incomplete_tiles_are_told_before_they_are_left_out(source: Path, tmp_path: Path) -> None:
    tiles = rp.xbd.index(source).tiles
    tiles[0].post.image.unlink()
    tiles[1].pre.image.unlink()
    first = f"2 problems, the first: {tiles[0].post.image}: missing"
    with pytest.warns(UserWarning, match=first) as caught:
        assert rp.xbd.write_targets(source) == (0, 12)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=first) as caught:
        assert rp.xbd.pack(source, tmp_path / "out") == (6, 0)
    assert caught[0].filename == __file__
    for command, result in [
        (["masks", source], "0 targets written, 12 were there"),
        (["pack", source, tmp_path / "out"], "0 tiles written, 6 were there"),
    ]:
        ended = xbd(*command)
        assert ended.stdout.splitlines() == [f"{first} (all: rarepixel xbd check {source})", result]
        assert (ended.returncode, ended.stderr.strip()) == (0, "")


@pytest.mark.parametrize("un_classified", ["ignore", "no-damage"])
def test_masks(source: Path, un_classified: str) -> None:
    before = {path.name: rp.xbd.read_target(path) for path in source.glob("train/targets/*")}
    for path in list(source.glob("train/targets/*"))[::2]:
        path.unlink()
    assert rp.xbd.write_targets(source, un_classified=un_classified) == (8, 8)
    ended = xbd("masks", source)
    assert (ended.returncode, ended.stdout) == (0, "0 targets written, 16 were there\n")
    for name, mask in before.items():
        target = rp.xbd.read_target(source / "train/targets" / name)
        kept_as = target if un_classified == "ignore" else np.where(mask == 255, mask, target)
        np.testing.assert_array_equal(kept_as, mask)


def test_stats(source: Path, tmp_path: Path) -> None:
    ended = xbd("stats", source, "--output", tmp_path / "mix.png")
    assert ended.returncode == 0, ended.stderr
    counts = rp.xbd.pixel_counts(source)
    assert f"{100 * counts[0] / counts.sum():.3f}" in ended.stdout
    assert all(text in ended.stdout for text in ("synthetic-fire", "median_frequency", "all"))
    assert f"{rp.class_weights(counts)[1]:.4g}" in ended.stdout
    assert min(Image.open(tmp_path / "mix.png").size) > 300


def test_stats_where_every_pixel_is_ignored(source: Path) -> None:
    for path in source.glob("train/targets/*_post_*"):
        Image.fromarray(np.full((96, 96), 255, np.uint8)).save(path)
    ended = xbd("stats", source)
    assert ended.returncode == 2
    assert ended.stderr.strip().startswith(f"rarepixel xbd stats: {source}: every pixel of the masks is ignored (255)")


def test_show_of_a_name_in_two_splits(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source / "train", source / "hold")
    name = rp.xbd.index(source).tiles[0].name
    ended = xbd("show", source, name, "--output", tmp_path / "tile.png")
    assert ended.returncode == 2
    assert f"tile: got {name!r}, which each of the splits hold, train has: choose one with --split" in ended.stderr
    assert xbd("show", source, name, "--split", "train", "--output", tmp_path / "tile.png").returncode == 0
    assert (tmp_path / "tile.png").exists()


def test_show(source: Path, tmp_path: Path) -> None:
    tile = rp.xbd.index(source).tiles[0].name
    ended = xbd("show", source, tile, "--output", tmp_path / "tile.png")
    assert ended.returncode == 0, ended.stderr
    picture = np.asarray(Image.open(tmp_path / "tile.png").convert("RGB")).reshape(-1, 3)
    # The mask's own classes, in their colours, besides the legend's swatches.
    for color in rp.xbd.CLASS_COLORS[:2]:
        assert (picture == color).all(-1).sum() > 500
    ended = xbd("show", source, "nowhere_1")
    assert ended.returncode == 2
    assert "tile: got 'nowhere_1', expected one of 8 tiles" in ended.stderr


def test_pack(source: Path, tmp_path: Path) -> None:
    assert xbd("pack", source, tmp_path / "out").stdout == "8 tiles written, 0 were there\n"
    assert xbd("pack", source, tmp_path / "out").stdout == "0 tiles written, 8 were there\n"
    some = xbd("pack", source, tmp_path / "some", "--disasters", "synthetic-fire", "--disasters", "synthetic-wind")
    others = xbd("pack", source, tmp_path / "some", "--exclude-disasters", "synthetic-fire")
    fire, wind, flood = (
        sum(tile.disaster == f"synthetic-{kind}" for tile in rp.xbd.index(source).tiles)
        for kind in ("fire", "wind", "flood")
    )
    assert min(fire, wind, flood) > 0
    assert some.stdout == f"{fire + wind} tiles written, 0 were there\n"
    assert others.stdout == f"{flood} tiles written, {wind} were there\n"
    unknown = xbd("pack", source, tmp_path / "none", "--disasters", "joplin")
    assert unknown.returncode == 2
    assert "disasters: got" in unknown.stderr
    assert not (tmp_path / "none").exists()
    (tmp_path / "out/pack.json").write_text("[]")
    ended = xbd("pack", source, tmp_path / "out")
    assert ended.returncode == 2
    assert "not the list of a pack" in ended.stderr


def test_max_pixels_is_for_labels_too(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "train/targets")
    with pytest.raises(ValueError, match=r"\.json: 96 x 96 = 9216 pixels, more than max_pixels = 5"):
        rp.xbd.pixel_counts(copy, max_pixels=5)
    assert rp.xbd.pixel_counts(copy, max_pixels=9216).sum() <= 8 * 9216
    label = rp.xbd.index(copy).tiles[0].post.label
    for read in (rp.xbd.read_label, rp.xbd.rasterize_label):
        with pytest.raises(ValueError, match=r"\.json: 96 x 96 = 9216 pixels, more than max_pixels = 9215"):
            read(label, max_pixels=9215)
        read(label, max_pixels=9216)
    with pytest.raises(ValueError, match="more than max_pixels = 9215"):
        rp.xbd.write_targets(copy, max_pixels=9215)
    assert rp.xbd.write_targets(copy, max_pixels=9216) == (16, 0)
