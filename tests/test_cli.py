"""The command line: help, version, what it says where something is wrong or missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rarepixel as rp


def rarepixel(*arguments, code="from rarepixel.cli import main; main()"):
    """The command in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


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
