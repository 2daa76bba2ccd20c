"""`rarepixel score`: the numbers of the challenge's scorer, from files of either naming."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ("no_damage", "minor_damage", "major_damage", "destroyed")


def score(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rarepixel", "score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def f1(truth: np.ndarray, prediction: np.ndarray) -> float:
    right = (truth & prediction).sum()
    return 2 * right / (truth.sum() + prediction.sum()) if right else 0.0


def expected(tiles: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
    """By the definition, over all pixels at once."""
    damage, target, localization, localization_target = (np.stack(parts) for parts in zip(*tiles, strict=True))
    damage = np.where(localization > 0, damage, 0)
    buildings = target > 0
    classes = [f1(target[buildings] == label, damage[buildings] == label) for label in range(1, 5)]
    damage_f1 = 4 / sum(1 / (value + 1e-6) for value in classes)
    localization_f1 = f1(localization_target > 0, localization > 0)
    return {
        "score": 0.3 * localization_f1 + 0.7 * damage_f1,
        "damage_f1": damage_f1,
        "localization_f1": localization_f1,
        **{f"damage_f1_{name}": value for name, value in zip(NAMES, classes, strict=True)},
    }


@pytest.mark.parametrize("naming", ["challenge", "xbd"])
def test_score(tmp_path: Path, naming: str) -> None:
    random = np.random.default_rng(0)
    folders = tmp_path / "predictions", tmp_path / "targets"
    for folder in folders:
        folder.mkdir()
    tiles = []
    for number in range(3):
        target = random.choice(5, (32, 40), p=[0.6, 0.1, 0.1, 0.1, 0.1]).astype(np.uint8)
        damage = np.where(random.random(target.shape) < 0.7, target, random.integers(0, 5, target.shape))
        parts = damage.astype(np.uint8), target, (damage > 1).astype(np.uint8), (target > 0).astype(np.uint8)
        tiles.append(parts)
        if naming == "challenge":
            names = [f"test_{kind}_0000{number}" for kind in ("damage", "localization")]
            files = [f"{names[0]}_prediction.png", f"{names[0]}_target.png"]
            files += [f"{names[1]}_prediction.png", f"{names[1]}_target.png"]
        else:
            files = [f"a-fire_{number}_{phase}_disaster_target.png" for phase in ("post", "post", "pre", "pre")]
        for part, name, folder in zip(parts, files, folders * 2, strict=True):
            Image.fromarray(part).save(folder / name)
    ended = score(*folders, "--output", tmp_path / "score.json")
    assert ended.returncode == 0, ended.stderr
    got = json.loads(ended.stdout)
    assert got == pytest.approx(expected(tiles), abs=1e-12)
    assert list(got) == list(expected(tiles))
    assert json.loads((tmp_path / "score.json").read_text()) == got


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    ended = score(tmp_path, tmp_path)
    assert ended.returncode == 2
    assert "rarepixel score: TRUTH: got " in ended.stderr
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "test_damage_00000_target.png")
    ended = score(tmp_path, tmp_path)
    assert ended.returncode == 2
    assert "test_damage_00000_prediction.png" in ended.stderr


@pytest.mark.parametrize("kind", ["damage", "localization"])
def test_a_wrong_map_is_named(tmp_path: Path, kind: str) -> None:
    """The file that is wrong, of many, and not the one it is compared with."""
    folders = tmp_path / "predictions", tmp_path / "targets"
    for folder, part in zip(folders, ("prediction", "target"), strict=True):
        folder.mkdir()
        for number in range(2):
            for map_kind in ("damage", "localization"):
                name = f"test_{map_kind}_0000{number}_{part}.png"
                Image.fromarray(np.ones((6, 8), np.uint8)).save(folder / name)
    wrong, target = folders[0] / f"test_{kind}_00001_prediction.png", folders[1] / "test_damage_00001_target.png"
    ignored = np.ones((6, 8), np.uint8)
    ignored[2, 3] = 255
    for labels, message in [
        (ignored, f"{wrong}: pixel (2, 3) is 255, expected a class index 0 to 4 in a prediction"),
        (np.ones((4, 8), np.uint8), f"{wrong}: 8 x 4 pixels, expected 8 x 6 as {target} has"),
    ]:
        Image.fromarray(labels).save(wrong)
        ended = score(*folders)
        assert (ended.returncode, ended.stderr.strip()) == (2, f"rarepixel score: {message}")
    Image.fromarray(np.ones((6, 8), np.uint8)).save(wrong)
    assert score(*folders).returncode == 0
    other = folders[1] / "test_localization_00000_target.png"
    Image.fromarray(np.ones((6, 7), np.uint8)).save(other)
    assert f"{other}: 7 x 6 pixels, expected 8 x 6 as " in score(*folders).stderr
