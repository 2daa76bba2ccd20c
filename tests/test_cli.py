"""The command line: help, version, what it says where something is wrong or missing."""

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

# A machine where tiles of 64 pixels are larger than what is taken without --max-pixels.
SMALL_LIMIT = "import rarepixel as rp; rp.xbd.MAX_PIXELS = 4095; from rarepixel.cli import main; main()"


@pytest.fixture
def root(tmp_path):
    """Two made tiles of 64 pixels, 4,096 in all."""
    rp.xbd.synthesize(tmp_path / "root", tiles=2, size=64)
    return tmp_path / "root"


def rarepixel(*arguments, code="from rarepixel.cli import main; main()", folder=None):
    """The command in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)


def without(*modules):
    """The command's code on a machine that lacks some packages."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules})); from rarepixel.cli import main; main()"


def test_help_lists_the_commands_and_their_options():
    pytest.importorskip("typer")
    assert "demo" in rarepixel("--help").stdout
    shown = rarepixel("demo", "--help")
    assert shown.returncode == 0
    for option in ("--data", "--losses", "--epochs", "--batch-size", "--resume", "--output"):
        assert option in shown.stdout


def test_version_and_python_dash_m():
    pytest.importorskip("typer")
    done = subprocess.run([sys.executable, "-m", "rarepixel", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, rp.__version__)


def test_help_does_not_import_torch():
    pytest.importorskip("typer")
    code = "import sys, rarepixel.commands; print('torch' in sys.modules)"
    assert rarepixel(code=code).stdout.strip() == "False"


def test_doctor_reports_every_part_and_fails_where_cuda_cannot_be_used():
    pytest.importorskip("typer")
    done = rarepixel("doctor")
    for part in ("rarepixel", "torch", "CUDA driver", "devices", "NVRTC", "kernel cache", "self-test"):
        assert part in done.stdout
    assert done.returncode == int("NO " in done.stdout)
    assert "`rarepixel doctor`" not in done.stdout
    assert done.stderr == ""


def test_without_typer_it_says_how_to_get_it():
    done = rarepixel("demo", code=without("typer"))
    assert done.returncode == 1
    assert done.stderr.strip() == 'rarepixel: the command line needs typer: pip install "rarepixel[demo]"'


def test_without_torch_or_matplotlib_the_demo_says_how_to_get_them():
    pytest.importorskip("typer")
    done = rarepixel("demo", code=without("torch", "matplotlib"))
    assert done.returncode == 1
    assert done.stderr.strip() == 'rarepixel: this command needs torch, matplotlib: pip install "rarepixel[demo]"'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: got 0, expected at least 1"),
        (["--tiles", "1"], "--tiles: got 1, expected at least 2"),
        (["--lr", "0"], "--lr: got 0.0, expected a number above 0"),
        (["--lr", "nan"], "--lr: got nan, expected a number above 0"),
        (["--crop", "128", "--size", "64"], "--crop: got 128, expected at most --size, which is 64"),
        (["--batch-size", "0"], "--batch-size: got 0, expected at least 1"),
        (["--resume"], "checkpoint.pt: no checkpoint to go on from; leave --resume out to start one"),
        (["--data", "no-such-root"], "no-such-root"),
        (["--data", "no-such-root", "--tiles", "4"], "--tiles: got 4, expected it to be left out with --data"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, message):
    pytest.importorskip("typer")
    done = rarepixel("demo", "--output", str(tmp_path), *arguments)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("rarepixel demo: ")
    assert "Traceback" not in done.stderr


def test_an_unknown_loss_is_a_usage_error(tmp_path):
    pytest.importorskip("typer")
    done = rarepixel("demo", "--losses", "keras")
    assert done.returncode == 2
    assert "keras" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["check"], ["rich"]),
        (["stats"], ["rich"]),
        (["stats", "--output", "mix.png"], ["rich", "matplotlib"]),
        (["stats", "--output", "mix.png"], ["matplotlib"]),
        (["masks"], ["rich"]),
        (["show", "synthetic-flood_00000000"], ["matplotlib"]),
    ],
)
def test_without_rich_or_matplotlib_the_xbd_commands_say_how_to_get_them(root, arguments, missing):
    pytest.importorskip("typer")
    command, *others = arguments
    done = rarepixel("xbd", command, root, *others, code=without(*missing), folder=root)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f'rarepixel: this command needs {", ".join(missing)}: pip install "rarepixel[demo]"'
    assert done.stderr.strip() == expected


def test_stats_without_a_picture_and_check_do_without_matplotlib(root):
    pytest.importorskip("typer")
    for command in ("stats", "check"):
        done = rarepixel("xbd", command, root, code=without("matplotlib"))
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("output", "written"), [("mix", "mix.png"), ("mix.svg", "mix.svg"), ("MIX.PNG", "MIX.PNG")])
def test_a_picture_is_where_it_is_said_to_be(root, output, written):
    pytest.importorskip("typer")
    pytest.importorskip("matplotlib")
    tile = rp.xbd.index(root).tiles[0].name
    for command in (["stats", root], ["show", root, tile]):
        done = rarepixel("xbd", *command, "--output", output, folder=root)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"wrote {written}"
        assert {path.name for path in root.iterdir()} == {"train", written}
        (root / written).unlink()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("train", "--output: got train, expected a file, but train is a folder"),
        (".", "--output: got ., expected a file, but . is a folder"),
        ("taken", "--output: got taken, expected a file, but taken.png is a folder"),
        ("absent/mix.png", f"--output: got {Path('absent/mix.png')}, expected a file in a folder that is there"),
        ("mix.doc", "--output: got mix.doc, expected a name that ends with one of "),
        ("mix.pgf", "--output: got mix.pgf, expected a name that ends with one of "),
    ],
)
def test_a_picture_that_cannot_be_written_is_told_before_the_work(root, output, message):
    pytest.importorskip("typer")
    pytest.importorskip("matplotlib")
    (root / "taken.png").mkdir()
    tile = rp.xbd.index(root).tiles[0].name
    for command, *others in (["stats"], ["show", tile]):
        done = rarepixel("xbd", command, root, *others, "--output", output, folder=root)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"rarepixel xbd {command}: {message}")
        assert {path.name for path in root.iterdir()} == {"train", "taken.png"}


def test_a_disaster_is_shown_by_stats_as_it_is_called(root):
    pytest.importorskip("typer")
    name = "a[red]b-c [x]"
    for path in root.rglob("*_disaster*"):
        path.rename(path.with_name(f"{name}_{path.name.split('_', 1)[1]}"))
    assert {tile.disaster for tile in rp.xbd.index(root).tiles} == {name}
    done = rarepixel("xbd", "stats", root)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_stats_tells_of_problems_in_one_line(root):
    pytest.importorskip("typer")
    tile = rp.xbd.index(root).tiles[0]
    tile.post.image.unlink()
    done = rarepixel("xbd", "stats", root)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    first = f"1 problems, the first: {tile.post.image}: missing (all: rarepixel xbd check {root})"
    assert done.stdout.splitlines()[0] == first
    assert done.stdout.count(", the first: ") == 1


def test_a_score_is_printed_though_it_cannot_be_written(tmp_path):
    pytest.importorskip("typer")
    for folder in ("predictions", "targets"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "a-fire_0_post_disaster_target.png"
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(path)
    absent = tmp_path / "absent" / "score.json"
    done = rarepixel("score", tmp_path / "predictions", tmp_path / "targets", "--output", absent)
    assert done.returncode == 2
    assert json.loads(done.stdout)["localization_f1"] == 1
    assert str(absent) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "stats", "masks", "show", "pack"])
def test_max_pixels_refuses_a_larger_tile_and_takes_one_when_raised(root, tmp_path, command):
    pytest.importorskip("typer")
    if command == "masks":
        shutil.rmtree(root / "train/targets")
    if command == "show":
        pytest.importorskip("matplotlib")
    tile = rp.xbd.index(root).tiles[0].name
    others = {"show": [tile, "--output", tmp_path / "tile.png"], "pack": [tmp_path / "out"]}.get(command, [])
    message = "64 x 64 = 4096 pixels, more than max_pixels = 4095"
    by_default = rarepixel("xbd", command, root, *others, code=SMALL_LIMIT)
    for done in (by_default, rarepixel("xbd", command, root, *others, "--max-pixels", 4095)):
        # What check finds is its answer, not an error.
        assert done.returncode == (1 if command == "check" else 2)
        assert message in (done.stdout if command == "check" else done.stderr)
        assert "Traceback" not in done.stderr
    raised = rarepixel("xbd", command, root, *others, "--max-pixels", 4096, code=SMALL_LIMIT)
    assert raised.returncode == 0, raised.stderr
