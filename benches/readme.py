"""The figures of README.md, written into it from CSVs of benches/losses.py and benches/gpu.py, and its picture.

`make bench` and `make bench-gpu` do it after a run; `python benches/readme.py [CSV] [GPU CSV]` does it again. The tests
compare the README with the newest CSVs in benches/results.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

import picture
import report
from report import Measurement
from sections import FORWARD, TRAINING

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"
PICTURE = PROJECT / "notebooks" / "docs" / "losses.svg"
PENDING = "The figures are still to come: `make bench` measures them and writes them here."
CONFUSION = "confusion matrix"
NONE = "–"
DEFAULT = "default: the newest in benches/results."


def newest(kind: str = "losses") -> Path | None:
    """The latest table of benches/losses.py or benches/gpu.py that is kept."""
    return max((PROJECT / "benches" / "results").glob(f"*-{kind}.csv"), key=_age, default=None)


def _age(results: Path) -> tuple[str, str, str]:
    """Rises with the time of the run: names begin with the day, and rows tell the minute, but for the oldest."""
    with results.open(newline="") as file:
        row = next(csv.DictReader(file), {})
    return results.name[: len("2026-01-01")], row.get("date", ""), results.name


def filled(text: str, results: Path | None, gpu_results: Path | None) -> str:
    """`text` with what is between each pair of markers made from CSVs of benches/losses.py and benches/gpu.py."""
    gpu = PENDING if gpu_results is None else _gpu_table(gpu_results)
    blocks = {"picture": PENDING, "libraries": PENDING, "gpu": gpu}
    if results is not None:
        measurements, facts = report.read_csv(results)
        blocks |= {"picture": _image(), "libraries": _tables(measurements, facts, results)}
    for name, block in blocks.items():
        markers = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = markers.subn(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)
        if found != 1:
            raise ValueError(f"<!-- bench: {name} --> to <!-- end -->: got {found} such places, expected one")
    return text


def _image() -> str:
    description = "Time and extra memory of each loss in each library, as bars on log scales."
    return f"![{description}]({PICTURE.relative_to(PROJECT).as_posix()})"


def _tables(measurements: Sequence[Measurement], facts: dict[str, str], results: Path) -> str:
    losses = [one for one in measurements if one.section == "libraries"]
    training = [one for one in losses if one.pass_ == TRAINING]
    confusion = [one for one in measurements if one.section == "metrics" and one.case == CONFUSION]
    if not training or not confusion:
        raise ValueError(f"{results}: expected the sections libraries and metrics")
    cases = list(dict.fromkeys(one.case for one in training))
    forward = [one for one in losses if one.pass_ == FORWARD and one.case in cases]
    without_gradient = {(one.case, one.contender): one for one in forward}

    def memory(one: Measurement) -> str:
        if one.pass_ == FORWARD:
            return f"{NONE} / {_multiple(one.extra_memory)}"
        other = without_gradient[one.case, one.contender]
        return f"{_multiple(one.extra_memory)} / {_multiple(other.extra_memory)}"

    def error(one: Measurement) -> str:
        return f"{one.loss_error:.0e} / {one.gradient_error:.0e}"

    return "\n\n".join(
        [
            _about(training[0], facts, results),
            "Forward + backward, milliseconds, and how many times ours:",
            _table(training, _time),
            "Forward under `no_grad`, and the confusion matrix from logits, in the same way:",
            _table(forward + confusion, _time),
            "Extra memory at the peak, in multiples of the logits: forward + backward (the gradient itself is 1) /"
            " forward under `no_grad`:",
            _table(training + confusion, memory),
            "Error of the loss, relative / of the gradient, over its largest element: each library against its own"
            " definition in float64:",
            _table(training, error),
        ]
    )


def _gpu_table(results: Path) -> str:
    """A row for each kind of batch, a column for each loss."""
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = rows[0]
    cells = {(_batch(row), row["loss"], row["implementation"]): row for row in rows}
    losses = list(dict.fromkeys(row["loss"] for row in rows if row["implementation"] == "rarepixel"))

    def cell(batch: str, loss: str) -> str:
        ours = cells[batch, loss, "rarepixel"]
        others = [cells.get((batch, loss, name)) for name in ("torch", "torch.compile")]
        times = [NONE if one is None else f"{float(one['both_ms']) / float(ours['both_ms']):.0f} x" for one in others]
        passes = [f"{100 * float(ours[f'{one}_of_copy']):.0f} %" for one in ("forward", "backward")]
        return f"{float(ours['both_ms']):.3f} ({', '.join(times)}); {', '.join(passes)}"

    batches = dict.fromkeys(_batch(row) for row in rows)
    return "\n".join(
        [
            f"{about['card']}, driver {about['driver']}, CUDA {about['cuda']}, torch {about['torch']}; commit"
            f" {about['commit']}. [All of it](benches/results/{results.name}). Forward + backward in milliseconds on"
            " the device (how many times torch and `torch.compile` take that); then what share the forward and the"
            f" backward pass get of the bandwidth of a large copy, {about['copy_gb_s']} GB/s, if each reads logits and"
            " labels once, and the second writes the gradient once:",
            "",
            f"|  | {' | '.join(losses)} |",
            f"| --- | {' | '.join(['--:'] * len(losses))} |",
            *(f"| {batch} | {' | '.join(cell(batch, loss) for loss in losses)} |" for batch in batches),
        ]
    )


def _batch(row: dict[str, str]) -> str:
    return f"({row['shape'].replace('x', ', ')}) {row['dtype']}, {row['labels']}"


def _about(one: Measurement, facts: dict[str, str], results: Path) -> str:
    return (
        f"Logits ({one.shape.replace(' x ', ', ')}) {one.dtype} and {one.target_dtype} labels, {one.threads} threads of"
        f" {facts['cpu']}, {facts['cpu_capability']}, {facts['cpu_count']} cores, {facts['system']}: medians of"
        f" {one.rounds} rounds in which all take turns."
        f" Python {facts['python']}, {facts['versions'].replace(';', ',')}; commit {facts['commit']}, {facts['date']}."
        f" [All of it](benches/results/{results.name})."
    )


def _table(measurements: Sequence[Measurement], cell: Callable[[Measurement], str]) -> str:
    """A row for each contender, a column for each case."""
    cases = list(dict.fromkeys(one.case for one in measurements))
    contenders = list(dict.fromkeys(one.contender for one in measurements))
    cells = {(one.contender, one.case): cell(one) for one in measurements}
    rows = [
        ["", *cases],
        ["---", *["--:"] * len(cases)],
        *([name, *(cells.get((name, case), NONE) for case in cases)] for name in contenders),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _time(one: Measurement) -> str:
    milliseconds = f"{one.p50_ms:.1f}" if one.p50_ms >= 1 else f"{one.p50_ms:.2f}"
    return milliseconds if one.relative == 1 else f"{milliseconds} ({one.relative:.1f} x)"


def _multiple(memory: float | None) -> str:
    return NONE if memory is None else f"{max(memory, 0.0):.1f}"


def main(
    results: Annotated[Path | None, typer.Argument(help=f"The CSV of benches/losses.py; {DEFAULT}")] = None,
    gpu_results: Annotated[Path | None, typer.Argument(help=f"That of benches/gpu.py; {DEFAULT}")] = None,
) -> None:
    """The tables of README.md between their markers, and its picture."""
    results = results or newest()
    README.write_text(filled(README.read_text(), results, gpu_results or newest("gpu")))
    if results is not None:
        measurements, facts = report.read_csv(results)
        picture.draw(measurements, facts["cpu"], PICTURE)
    typer.echo(f"{README.name}: {results or 'no results yet'}")


if __name__ == "__main__":
    typer.run(main)
