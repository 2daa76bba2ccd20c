"""The figures of README.md, written into it from a CSV of benches/losses.py, and the picture beside them.

`make bench` does it after a run; `python benches/readme.py [CSV]` does it again. The tests compare the README with the
newest CSV in benches/results.
"""

from __future__ import annotations

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


def newest() -> Path | None:
    """The latest table of benches/losses.py that is kept; names begin with the date."""
    return max((PROJECT / "benches" / "results").glob("*-losses.csv"), default=None)


def filled(text: str, results: Path | None) -> str:
    """`text` with what is between each pair of markers made from `results`."""
    blocks = {"picture": PENDING, "libraries": PENDING}
    if results is not None:
        measurements, facts = report.read_csv(results)
        blocks = {"picture": _image(), "libraries": _tables(measurements, facts, results)}
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


def _about(one: Measurement, facts: dict[str, str], results: Path) -> str:
    return (
        f"Logits ({one.shape.replace(' x ', ', ')}) {one.dtype} and {one.target_dtype} labels, {one.threads} threads of"
        f" {facts['cpu']} ({facts['cpu_capability']}, {facts['cpu_count']} cores), {facts['system']}: medians of"
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
    results: Annotated[Path | None, typer.Argument(help="The CSV; default: the newest in benches/results.")] = None,
) -> None:
    """The tables of README.md between their markers, and its picture, from a CSV of benches/losses.py."""
    results = results or newest()
    README.write_text(filled(README.read_text(), results))
    if results is not None:
        measurements, facts = report.read_csv(results)
        picture.draw(measurements, facts["cpu"], PICTURE)
    typer.echo(f"{README.name}: {results or 'no results yet'}")


if __name__ == "__main__":
    typer.run(main)
