"""The command from tiles to pictures, in a process of its own, with and without Ctrl-C."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

import rarepixel as rp
from rarepixel.demo import checkpoint, report
from support import real_tiles

TINY = ["--tiles", "8", "--size", "64", "--crop", "48", "--batch-size", "2"]


def command(output, *arguments):
    return [sys.executable, "-m", "rarepixel", "demo", "--output", str(output), *arguments]


def run(output, *arguments):
    return subprocess.run(command(output, *arguments), capture_output=True, text=True, timeout=300)


def history(output):
    """history.csv without the times."""
    with (output / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]


def test_a_run_leaves_four_files_that_open(tmp_path):
    done = run(tmp_path, *TINY, "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for shown in (
        "epoch 1 of 2",
        "epoch 2 of 2",
        "destroyed",
        "xView2 score",
        "accuracy",
        "s in the loss",
        "predictions.png",
    ):
        assert shown in done.stdout
    rows = history(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["history"]) == 2
    for name in ("curves.png", "predictions.png"):
        assert min(Image.open(tmp_path / name).size) > 300
    assert not list(tmp_path.glob("*.part"))

    again = run(tmp_path, "--resume")  # nothing is left to train
    assert again.returncode == 0, again.stderr
    assert history(tmp_path) == rows

    other = run(tmp_path, "--resume", "--epochs", "3")
    assert other.returncode == 1
    assert "--epochs: got 3, but" in other.stderr


def test_deep_supervision_is_shown_and_gone_on_with(tmp_path):
    done = run(tmp_path, *TINY, "--epochs", "1", "--multi-scale")
    assert done.returncode == 0, done.stderr
    assert "at scales 1/8, 1/4, 1;" in done.stdout
    (row,) = history(tmp_path)
    assert f"loss {float(row['train_loss']):.4f} ({float(row['train_loss_1/8']):.4f} at 1/8 + " in done.stdout
    again = run(tmp_path, "--resume")
    assert again.returncode == 0, again.stderr
    assert history(tmp_path) == [row]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one process")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_saves_and_resume_goes_on_to_the_same_end(tmp_path, workers):
    epochs = [*TINY, "--epochs", "40", "--workers", workers]
    # A session of its own, so that the signal reaches the workers too, as in a terminal.
    process = subprocess.Popen(
        command(tmp_path / "stopped", *epochs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (tmp_path / "stopped" / "history.csv").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr == ""
    assert "stopped in epoch" in stdout
    assert f"rarepixel demo --output {tmp_path / 'stopped'} --resume" in stdout
    assert len(history(tmp_path / "stopped")) < 40

    assert run(tmp_path / "stopped", "--resume").returncode == 0
    assert run(tmp_path / "whole", *epochs).returncode == 0
    assert history(tmp_path / "stopped") == history(tmp_path / "whole")


def test_real_layout_by_data(tmp_path):
    rp.xbd.synthesize(tmp_path / "xbd", tiles=4, size=64, split="train")
    done = run(tmp_path / "out", "--data", str(tmp_path / "xbd"), "--crop", "32", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "3 to train on, 1 to validate" in done.stdout
    assert not (tmp_path / "out" / "tiles").exists()


def test_real_tiles(tmp_path):
    if (root := real_tiles()) is None:
        pytest.skip("no real xBD tiles here")
    done = run(tmp_path, "--data", str(root), "--crop", "128", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    # The sample's train and tier3 tiles, judged by its test tiles.
    assert "3 to train on, 2 to validate" in done.stdout
    assert min(Image.open(tmp_path / "predictions.png").size) > 300


def test_an_earlier_run_is_kept_and_can_be_gone_on_with(tmp_path):
    done = [run(tmp_path, *TINY, "--epochs", "1", "--seed", seed) for seed in ("0", "1", "2")]
    assert [one.returncode for one in done] == [0, 0, 0], done[-1].stderr
    assert "kept the earlier run" not in done[0].stdout
    assert f"kept the earlier run in {tmp_path / 'run-2'}" in done[2].stdout
    folders = [tmp_path / "run-1", tmp_path / "run-2", tmp_path]
    for folder, seed in zip(folders, range(3), strict=True):
        assert {path.name for path in folder.iterdir()} >= set(report.FILES)
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert state["settings"]["seed"] == seed
    rows = history(tmp_path / "run-1")
    again = run(tmp_path / "run-1", "--resume")
    assert again.returncode == 0, again.stderr
    assert history(tmp_path / "run-1") == rows


def test_a_start_that_fails_leaves_the_earlier_run_where_it_was(tmp_path):
    assert run(tmp_path, *TINY, "--epochs", "1").returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    failed = run(tmp_path, "--data", str(tmp_path / "tiles"), "--crop", "65")
    assert failed.returncode == 1
    assert "crop: got 65, expected 1 to 64" in failed.stderr
    assert "kept the earlier run" not in failed.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "run-1").exists()
    again = run(tmp_path, "--resume", "--size", "64")  # smaller than the default crop
    assert again.returncode == 0, again.stderr


def test_tiles_of_several_sizes_train_and_those_of_the_first_size_are_drawn(tmp_path):
    for size, disaster in ((64, "train"), (64, "test"), (96, "hold")):
        rp.xbd.synthesize(tmp_path / "xbd", tiles=2, size=size, split=disaster)
    for path in (tmp_path / "xbd/hold").rglob("*_disaster*"):
        path.rename(tmp_path / "xbd/test" / path.parent.name / path.name.replace("_", "-large_", 1))
    done = run(tmp_path / "out", "--data", str(tmp_path / "xbd"), "--crop", "32", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "2 to train on, 4 to validate" in done.stdout
    assert min(Image.open(tmp_path / "out" / "predictions.png").size) > 300


def test_an_output_that_is_a_file_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for arguments in (TINY, ["--resume"]):
        done = run(file, *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.strip() == f"rarepixel demo: --output: got {file}, which is a file, expected a folder"
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "absent"])
def test_data_that_is_no_folder_is_named(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    done = run(tmp_path / "out", "--data", str(tmp_path / name))
    assert done.stderr.strip() == f"rarepixel demo: --data: got {tmp_path / name}, expected a folder"
    assert not (tmp_path / "out").exists()


def test_a_bad_seed_leaves_no_folder(tmp_path):
    done = run(tmp_path / "out", *TINY, "--seed", "-1")
    assert done.stderr.strip() == "rarepixel demo: --seed: got -1, expected at least 0"
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_settings_is_named(tmp_path):
    checkpoint.save(tmp_path / "checkpoint.pt", {"model": {}})
    done = run(tmp_path, "--resume")
    assert done.returncode == 1
    expected = (
        f"rarepixel demo: {tmp_path / 'checkpoint.pt'}: not a whole checkpoint of rarepixel demo: it lacks 'settings'"
    )
    assert done.stderr.strip() == expected


def test_a_broken_tile_is_named(tmp_path):
    rp.xbd.synthesize(tmp_path / "xbd", tiles=4, size=64)
    for image in (tmp_path / "xbd/train/images").iterdir():
        image.write_bytes(image.read_bytes()[:500])
    done = run(tmp_path / "out", "--data", str(tmp_path / "xbd"), "--crop", "32", "--epochs", "1")
    assert done.returncode == 1
    assert "_disaster.png: " in done.stderr
    assert "Traceback" not in done.stderr
