"""Fused losses against torch and its peers: time and memory, on the same inputs, side by side in one run.

`make bench`, or `python benches/losses.py --help`. Every contender's answer is checked before it is timed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

import machine
import memory
import picture
import report
import sections
from inputs import Inputs, Truth
from report import Measurement
from sections import BACKWARD, FORWARD, Section
from timing import Action, interleaved, percentile
from trials import Runner, Trial

RESULTS = Path(__file__).parent / "results"


def _action(runner: Runner, threads: int, name: str) -> Action:
    """One pass of one trial, on its number of threads."""

    def on_threads() -> None:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def forward_done() -> torch.Tensor:
        on_threads()
        return runner.forward_for_backward()

    if name == BACKWARD:
        return Action(forward_done, runner.backward)
    run = runner.forward if name == FORWARD else runner.forward_backward
    return Action(on_threads, lambda _: run())


def _case(
    section: Section, trials: list[Trial], threads: int, rounds: int, with_memory: bool, progress: Progress
) -> list[Measurement]:
    """Check, then time, all trials of one case."""
    task = progress.add_task(f"{section.name}: {trials[0].case}", total=len(trials) + len(section.passes))
    truths: dict[object, Truth] = {}
    batches = {trial.inputs: trial.inputs.make() for trial in trials}
    runners = [Runner(trial, batches[trial.inputs]) for trial in trials]
    extra, errors = [], []
    for runner in runners:
        torch.set_num_threads(runner.trial.threads or threads)
        errors.append(runner.check(truths))
        measured = section.memory and with_memory
        extra.append(memory.in_fresh_process(section, runner.trial, threads) if measured else {})
        progress.advance(task)
    truths.clear()
    measurements: list[Measurement] = []
    for name in section.passes:
        able = [i for i, trial in enumerate(trials) if name == FORWARD or trial.differentiable]
        actions = [_action(runners[i], runners[i].trial.threads or threads, name) for i in able]
        samples = dict(zip(able, interleaved(actions, rounds), strict=True))
        medians = {trials[i].contender: percentile(samples[i], 50) / trials[i].inputs.logits for i in able}
        baseline = medians.get(section.baseline)
        measurements += [
            Measurement.of(
                section.name,
                trials[i],
                pass_=name,
                threads=trials[i].threads or threads,
                rounds=rounds,
                p20_ms=percentile(samples[i], 20) * 1e3,
                p50_ms=percentile(samples[i], 50) * 1e3,
                p80_ms=percentile(samples[i], 80) * 1e3,
                relative=medians[trials[i].contender] / baseline if baseline else None,
                extra_memory=extra[i].get(name),
                loss_error=errors[i].get("loss_error"),
                gradient_error=errors[i].get("gradient_error"),
            )
            for i in able
        ]
        progress.advance(task)
    progress.remove_task(task)
    return measurements


def main(
    section: Annotated[
        list[str] | None,
        typer.Option(help=f"A section of the table, or several ({', '.join(sections.NAMES)}); default: all."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each contender.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch and rarepixel.")] = torch.get_num_threads(),
    without: Annotated[list[str] | None, typer.Option(help="A contender to leave out, such as torch.compile.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Small batches, few rounds, no memory: whether it works, not how fast it is."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The CSV; default: benches/results/<date>-<cpu>-losses.csv, or none when quick.")
    ] = None,
    picture_file: Annotated[
        Path | None, typer.Option("--picture", help="Bars of the libraries, as PNG or SVG.")
    ] = None,
) -> None:
    """Fused losses against torch and its peers: time and memory, on the same inputs, side by side in one run."""
    unknown = set(section or ()) - set(sections.NAMES)
    if unknown:
        raise typer.BadParameter(
            f"got {', '.join(unknown)}, expected {', '.join(sections.NAMES)}", param_hint="--section"
        )
    inputs, rounds = (Inputs(size=64), 2) if quick else (Inputs(), rounds)
    with_memory = memory.measurable() and not quick
    measurements: list[Measurement] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name in section or sections.NAMES:
            chosen = sections.section(name, inputs)
            trials = [trial for trial in chosen.trials if trial.contender not in (without or ())]
            for case in dict.fromkeys(trial.case for trial in trials):
                group = [trial for trial in trials if trial.case == case]
                measurements += _case(chosen, group, threads, rounds, with_memory, progress)
    console = Console()
    console.width = max(console.width, 160)  # narrower, columns would be cut
    console.print(report.table(measurements))
    path = output or (None if quick else RESULTS / machine.file_name("losses"))
    if path:
        report.write_csv(measurements, path)
        console.print(f"written: {path}")
    if picture_file:
        picture.draw(measurements, machine.cpu(), picture_file)
        console.print(f"written: {picture_file}")


if __name__ == "__main__":
    typer.run(main)
