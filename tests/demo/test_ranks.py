"""The demo on several processes: what torchrun starts gives the run of one process, and ends when one of them does."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import rarepixel as rp
from rarepixel.demo import data, ranks
from rarepixel.demo.options import Options

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed and POSIX signals"
)

DEMO = ["-m", "rarepixel", "demo"]
# Ten tiles to train on and three to judge by: with batches of 3, neither goes round evenly among two processes.
TINY = ["--tiles", "13", "--size", "64", "--crop", "48", "--batch-size", "3"]


def torchrun(output, *arguments, processes=2):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [*launcher, *DEMO, "--output", str(output), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def history(output):
    with (output / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if "seconds" not in name} for row in rows]


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize("arguments", [[], ["--multi-scale"]], ids=["one map", "multi-scale"])
def test_two_processes_give_the_run_of_one(tmp_path, arguments):
    arguments = [*TINY, "--epochs", "1", *arguments]
    process = torchrun(tmp_path / "two", *arguments)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert stdout.count("epoch 1 of 1") == 1  # rank 0 alone prints
    assert "2 processes share each batch of 3" in stdout
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        *("tiles", "checkpoint.pt", "history.csv", "curves.png", "predictions.png")
    }
    alone = [sys.executable, *DEMO, "--output", str(tmp_path / "one"), *arguments]
    subprocess.run(alone, capture_output=True, check=True, timeout=300)
    (two,), (one,) = history(tmp_path / "two"), history(tmp_path / "one")
    assert two.keys() == one.keys()
    for name, value in one.items():
        # Rounding in the weights' gradients; a score counts pixels, of which rounding may turn a few.
        bound = {"rel": 1e-4} if "loss" in name else {"abs": 0.01}
        assert two[name] == pytest.approx(value, **bound, nan_ok=True), name


def test_ctrl_c_saves_and_one_process_goes_on(tmp_path):
    process = torchrun(tmp_path, *TINY, "--epochs", "100")
    wait_for(tmp_path / "history.csv", process)
    process.send_signal(signal.SIGINT)  # to torchrun, which hands it on
    stdout, stderr = process.communicate(timeout=60)
    assert "stopped in epoch" in stdout, stderr
    assert f"torchrun --nproc-per-node 2 -m rarepixel demo --output {tmp_path} --resume" in stdout
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert 0 < len(state["history"]) < 100
    state["settings"]["epochs"] = len(state["history"]) + 1
    torch.save(state, tmp_path / "checkpoint.pt")
    subprocess.run([sys.executable, *DEMO, "--output", str(tmp_path), "--resume"], check=True, timeout=300)
    assert len(history(tmp_path)) == state["settings"]["epochs"]


def test_a_tile_that_one_process_cannot_read_ends_all(tmp_path):
    rp.xbd.synthesize(tmp_path / "xbd", tiles=4, size=64)
    image = next((tmp_path / "xbd/train/images").glob("*_post_disaster.png"))
    image.write_bytes(image.read_bytes()[:500])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoint.pt").write_text("earlier")
    process = torchrun(tmp_path / "out", "--data", str(tmp_path / "xbd"), "--crop", "32", "--epochs", "1")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"{image.name}: " in stderr
    (left,) = (tmp_path / "out").iterdir()
    assert left.read_text() == "earlier"


def test_torch_losses_are_for_one_process(tmp_path):
    process = torchrun(tmp_path, *TINY, "--losses", "torch")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "--losses: got torch on several processes, expected rarepixel" in stderr


def test_a_process_that_dies_is_an_error_of_the_others(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # What torchrun sets, but nobody who ends the one when the other is gone.
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    processes = [
        subprocess.Popen(
            [sys.executable, *DEMO, "--output", str(tmp_path), *TINY, "--epochs", "1000"],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    wait_for(tmp_path / "history.csv", processes[0])
    processes[1].kill()
    _, stderr = processes[0].communicate(timeout=60)
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "rarepixel demo: another process was lost" in stderr


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_shares_of_all_are_the_batches_of_one(tmp_path, monkeypatch, world_size):
    rp.xbd.synthesize(tmp_path, tiles=13, size=64)
    loaded = data.load(tmp_path, Options(data=tmp_path, crop=48, batch_size=4))
    whole = list(loaded.train.epoch(3)), list(loaded.validation_tiles())
    monkeypatch.setattr(ranks, "world_size", lambda: world_size)
    shares = []
    for rank in range(world_size):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        shares.append((list(loaded.train.epoch(3)), list(loaded.validation_tiles())))
    for kind in (0, 1):
        assert len({len(share[kind]) for share in shares}) == 1  # every process takes as many steps
    for batch, parts in zip(whole[0], zip(*(share[0] for share in shares), strict=True), strict=True):
        # Dealt out in turn.
        size, spare = len(batch[2]), [(part[2] == rp.xbd.IGNORE_INDEX).all() for part in parts]
        assert sum(spare) == max(0, world_size - size)
        for index in range(size):
            dealt = parts[index % world_size]
            for expected, got in zip(batch, dealt, strict=True):
                assert torch.equal(got[index // world_size], expected[index])
    judged = [tile for step in zip(*(share[1] for share in shares), strict=True) for tile in step]
    for expected, got in zip(whole[1], judged, strict=False):
        assert all(map(torch.equal, expected, got))
    assert all((tile[2] == rp.xbd.IGNORE_INDEX).all() for tile in judged[len(whole[1]) :])


def test_alone_there_is_nobody_to_ask():
    with ranks.process_group():
        assert (ranks.rank(), ranks.world_size(), ranks.are_several()) == (0, 1, False)
        assert [ranks.on_any(flag) for flag in (False, True)] == [False, True]
        assert ranks.gathered("mine") == ["mine"]
        ranks.barrier()
