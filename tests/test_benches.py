"""The benches run, check answers before they time them, and measure memory truthfully."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import machine
import memory
import peers
import picture
import report
import sections
import supervision
import timing
from inputs import Inputs
from supervision import Scales
from support import PROJECT
from trials import Runner, Trial

SMALL = Inputs(samples=2, size=64)
# torch.compile takes a minute to compile all losses.
SLOW_OR_MISSING = [
    "torch.compile",
    *(
        library
        for library, module in (
            ("MONAI", "monai"),
            ("segmentation-models-pytorch", "segmentation_models_pytorch"),
            ("kornia", "kornia"),
            ("torchmetrics", "torchmetrics"),
        )
        if importlib.util.find_spec(module) is None
    ),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Other tests may run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cross_entropy(loss: peers.Loss) -> Trial:
    return Trial("cross entropy", "a contender", lambda: loss, F.cross_entropy, SMALL)


def test_the_script_times_every_trial_and_writes_csv_and_picture(tmp_path: Path) -> None:
    table, bars = tmp_path / "table.csv", tmp_path / "bars.png"
    options = [option for contender in SLOW_OR_MISSING for option in ("--without", contender)]
    names = ("libraries", "small", "threads", "multi-scale", "upsample")
    for name in names:
        options += ["--section", name]
    done = subprocess.run(
        [
            sys.executable,
            PROJECT / "benches" / "losses.py",
            "--quick",
            "--threads",
            "1",
            *options,
            "--output",
            table,
            "--picture",
            bars,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(table.open()))
    timed = {(row["section"], row["case"], row["contender"]) for row in rows}
    expected = {
        (name, trial.case, trial.contender)
        for name in names
        for trial in sections.section(name, Inputs(size=64)).trials
        if trial.contender not in SLOW_OR_MISSING
    }
    assert timed == expected
    for row in rows:
        assert 0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert row["cpu"]
        if row["pass"] == "forward + backward":
            assert float(row["loss_error"]) < 1e-4
            assert float(row["gradient_error"]) < 1e-4
        assert "torch" in row["versions"]
    assert bars.stat().st_size > 10_000
    measurements, facts = report.read_csv(table)
    assert [one.p50_ms for one in measurements] == [float(row["p50_ms"]) for row in rows]
    assert facts["cpu"] == rows[0]["cpu"]


@pytest.mark.parametrize("name", sections.NAMES)
def test_every_section_has_its_baseline_in_every_case_and_no_trial_twice(name: str) -> None:
    section = sections.section(name, Inputs(size=64))
    assert len({(trial.case, trial.contender) for trial in section.trials}) == len(section.trials)
    for case in {trial.case for trial in section.trials} - {"copy of the logits"}:
        assert section.baseline in {trial.contender for trial in section.trials if trial.case == case}


@pytest.mark.parametrize("name", ["types", "growth", "classes"])
def test_answers_of_the_other_sections_are_right(name: str) -> None:
    truths: dict[object, tuple[Tensor, Tensor]] = {}
    for trial in sections.section(name, SMALL).trials:
        Runner(trial).check(truths)


def test_a_repeated_patch_has_the_truth_of_the_whole() -> None:
    inputs = Inputs(samples=1, size=512)
    logits, target = inputs.make()
    loss = F.cross_entropy(logits.double(), target)
    (gradient,) = torch.autograd.grad(loss, logits)
    truth = inputs.truth(F.cross_entropy)
    assert loss.item() == pytest.approx(truth[0].item(), rel=1e-12)
    assert torch.allclose(gradient[..., 256:, :256].double(), truth[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda z, y: F.cross_entropy(z, y) * 1.001, "loss"),
        (lambda z, y: F.cross_entropy(z, y) + z.sum() * 1e-6 - z.sum().detach() * 1e-6, "gradient off"),
        (lambda z, y: F.cross_entropy(z, y) if z.requires_grad and torch.is_grad_enabled() else z.sum() * 0, "loss"),
    ],
    ids=["loss", "gradient", "no_grad"],
)
def test_a_wrong_answer_is_not_timed(wrong: peers.Loss, message: str) -> None:
    Runner(cross_entropy(F.cross_entropy)).check({})
    with pytest.raises(AssertionError, match=message):
        Runner(cross_entropy(wrong)).check({})


def test_a_wrong_element_in_the_last_tile_is_found() -> None:
    inputs = Inputs(samples=1, size=512)
    truth = inputs.truth(F.cross_entropy)
    logits, target = inputs.make()
    loss = F.cross_entropy(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    inputs.check_loss(loss, truth[0], "right")
    assert inputs.check_gradient(gradient, truth[1], "right") < 1e-5
    gradient[0, -1, -1, -1] += gradient.abs().max()
    with pytest.raises(AssertionError, match="wrong: gradient off"):
        inputs.check_gradient(gradient, truth[1], "wrong")


def test_a_wrong_element_in_the_smallest_map_is_found() -> None:
    scales = Scales(samples=1, size=64)
    definition = supervision.multi_scale(5)["nearest"][0].definition
    _, truth = scales.truth(definition)
    gradients = [each.float() for each in truth]
    assert [each.shape[-1] for each in gradients] == [64, 16, 8]
    assert scales.check_gradient(tuple(gradients), truth, "right") < 1e-5
    gradients[2][0, -1, -1, -1] += gradients[2].abs().max()
    with pytest.raises(AssertionError, match="wrong, map 2: gradient off"):
        scales.check_gradient(tuple(gradients), truth, "wrong")


@pytest.mark.skipif(not memory.measurable(), reason="the system does not tell the peak of its memory")
@pytest.mark.parametrize(
    ("section", "case", "contender", "training", "no_grad"),
    [
        ("libraries", "copy of the logits", "torch", None, (0.95, 1.05)),
        ("libraries", "cross entropy", "torch", (1.9, 4.0), (0.9, 2.5)),
        # Issue: at most the gradient, and nothing without one.
        ("libraries", "cross entropy", "rarepixel", (0.95, 1.1), (0.0, 0.02)),
        ("libraries", "focal + Dice", "rarepixel", (0.95, 1.1), (0.0, 0.02)),
        # The sums of a job lane by lane were 0.12.
        ("classes", "focal + Dice", "150 classes", None, (0.0, 0.02)),
        # At most 1.1 times the sum of the logits. Shares of classes are made for the smaller maps.
        ("multi-scale", "nearest", "rarepixel", (0.95, 1.1), (0.0, 0.05)),
        # It measures 1.06 to 1.08; beside other work a thread's own malloc arena may come on top.
        ("multi-scale", "area", "rarepixel", (0.95, 1.2), (0.0, 0.3)),
        # Where torch takes 99.
        ("upsample", "focal + Dice", "rarepixel", (0.95, 1.3), (0.0, 0.3)),
    ],
)
def test_memory(
    section: str, case: str, contender: str, training: tuple[float, float] | None, no_grad: tuple[float, float]
) -> None:
    chosen = sections.section(section, Inputs())
    trial = next(trial for trial in chosen.trials if (trial.case, trial.contender) == (case, contender))
    extra = memory.in_fresh_process(chosen, trial, threads=2)
    assert no_grad[0] <= extra["forward"] <= no_grad[1]
    if training:
        assert training[0] <= extra["forward + backward"] <= training[1]


def test_rounds_are_interleaved_and_preparation_is_not_timed() -> None:
    calls: list[str] = []

    def action(name: str, seconds: float) -> timing.Action:
        def run(_: object) -> None:
            calls.append(name)
            time.sleep(seconds)

        return timing.Action(lambda: time.sleep(0.02), run)

    samples = timing.interleaved([action("a", 0.001), action("b", 0.002)], rounds=5)
    # Both are too long to need repetition; every sample has an untimed run before it.
    assert calls[::2] == calls[1::2]
    turns = calls[::2]
    warm_up, rounds = turns[:4], turns[4:]
    assert sorted(warm_up) == ["a", "a", "b", "b"]
    assert len(rounds) == 10
    assert all({first, second} == {"a", "b"} for first, second in zip(rounds[::2], rounds[1::2], strict=True))
    assert [len(each) for each in samples] == [5, 5]
    for shortest, each in zip((0.001, 0.002), samples, strict=True):
        assert shortest <= min(each) < 0.02


def test_short_runs_are_repeated() -> None:
    runs: list[None] = []
    (samples,) = timing.interleaved([timing.Action(lambda: None, runs.append)], rounds=3)
    assert len(samples) == 3
    assert len(runs) > 100


def test_percentiles_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    for percent in (0, 20, 50, 80, 100):
        assert timing.percentile(values, percent) == pytest.approx(np.percentile(values, percent))


def test_a_picture_needs_the_libraries(tmp_path: Path) -> None:
    trial = replace(cross_entropy(F.cross_entropy), inputs=SMALL)
    one = report.Measurement.of(
        "small",
        trial,
        pass_="forward",
        threads=1,
        rounds=1,
        p20_ms=1.0,
        p50_ms=1.0,
        p80_ms=1.0,
        relative=None,
        extra_memory=None,
        loss_error=None,
        gradient_error=None,
    )
    with pytest.raises(ValueError, match="libraries"):
        picture.draw([one], "a processor", tmp_path / "bars.png")


@pytest.mark.parametrize(
    ("cpuinfo", "name", "file"),
    [
        (
            2 * "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n",
            "AMD EPYC (family 25, model 17)",
            "amd-epyc-family-25-model-17-losses.csv",
        ),
        (
            "cpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.00GHz\nflags\t: a b\n",
            "Intel(R) Xeon(R) CPU @ 2.00GHz (family 6, model 85)",
            "intel-xeon-cpu-family-6-model-85-losses.csv",
        ),
        ("processor\t: 0\nFeatures\t: fp asimd\n", None, None),  # Arm
    ],
)
def test_processors_of_one_name_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cpuinfo: str, name: str | None, file: str | None
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", path)
    if name is None:
        assert "(" not in machine.cpu()
        return
    assert machine.cpu() == name
    written = machine.file_name("losses")
    day = written[: len("2026-01-01")]
    assert written == f"{day}-{file}"
    assert machine.facts()["date"].startswith(day)
    assert machine.file_name("gpu", "NVIDIA H100 80GB HBM3") == f"{day}-nvidia-h100-80gb-hbm3-gpu.csv"
