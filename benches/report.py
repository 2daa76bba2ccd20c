"""Measurements as a table for people, and as a CSV."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

import machine
from sections import BACKWARD, FORWARD, TRAINING
from trials import Trial


@dataclass(frozen=True)
class Measurement:
    """One trial in one pass; a row of the CSV, with the facts of the machine."""

    section: str
    case: str
    contender: str
    pass_: str
    shape: str
    dtype: str
    target_dtype: str
    layout: str
    threads: int
    rounds: int
    p20_ms: float
    p50_ms: float
    p80_ms: float
    relative: float | None
    """Median time a logit, over that of the section's baseline in the same case and pass."""
    extra_memory: float | None
    """At the peak, in multiples of the logits."""
    loss_error: float | None
    """Of the float64 value of the contender's own definition, relative."""
    gradient_error: float | None
    """The largest, over the largest element."""

    @classmethod
    def of(cls, section: str, trial: Trial, **measured: object) -> Measurement:
        inputs = trial.inputs
        return cls(
            section=section,
            case=trial.case,
            contender=trial.contender,
            shape=", ".join(" x ".join(map(str, shape)) for shape in inputs.shapes),
            dtype=str(inputs.dtype).removeprefix("torch."),
            target_dtype=str(inputs.target_dtype).removeprefix("torch."),
            layout="channels_last" if inputs.channels_last else "contiguous",
            **measured,  # type: ignore[arg-type]
        )


def table(measurements: Sequence[Measurement]) -> Table:
    """One row for each trial, its passes side by side."""
    result = Table(
        box=box.SIMPLE,
        caption=f"{machine.cpu()}. Milliseconds. training: forward + backward; no-grad: forward under no_grad;"
        " backward: alone, after a forward pass that may have computed the gradient on its way; x: median time a logit"
        " over that of the baseline (*) of the same case; memory: extra at the peak, in multiples of the logits;"
        " error: relative, against each contender's own definition in float64.",
    )
    result.add_column("", no_wrap=True)
    for heading in (
        *("training\np20", "\np50", "\np80", "\nx"),
        *("no-grad\np50", "\nx", "backward\np50", "\nx"),
        *("memory,\ntraining", "memory,\nno-grad"),
        *("error,\nloss", "error,\ngradient"),
    ):
        result.add_column(heading, justify="right", no_wrap=True)
    group: tuple[str, str] | None = None
    rows: dict[tuple[str, str, str], dict[str, Measurement]] = {}
    for one in measurements:
        rows.setdefault((one.section, one.case, one.contender), {})[one.pass_] = one
    for (section, case, contender), passes in rows.items():
        if group != (section, case):
            group = (section, case)
            result.add_section()
            result.add_row(f"{section}: {case}", style="bold")
        training, forward, backward = (passes.get(name) for name in (TRAINING, FORWARD, BACKWARD))
        result.add_row(
            f"  {contender}",
            *(_number(training and getattr(training, name)) for name in ("p20_ms", "p50_ms", "p80_ms")),
            _times(training),
            _number(forward and forward.p50_ms),
            _times(forward),
            _number(backward and backward.p50_ms),
            _times(backward),
            *(_number(one and one.extra_memory) for one in (training, forward)),
            *(_error(training and getattr(training, name)) for name in ("loss_error", "gradient_error")),
        )
    return result


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) < 0.005 or abs(value) >= 1 else f"{value:.3g}"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _times(measurement: Measurement | None) -> str:
    if measurement is None or measurement.relative is None:
        return ""
    return "*" if measurement.relative == 1.0 else f"{measurement.relative:.2f}"


def write_csv(measurements: Iterable[Measurement], path: Path) -> None:
    """A row for each trial and pass; over an older file of the same day and machine."""
    facts = machine.facts()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        names = [field.name.removesuffix("_") for field in dataclasses.fields(Measurement)]
        writer = csv.writer(file)
        writer.writerow([*names, *facts])
        for one in measurements:
            values = dataclasses.astuple(one)
            writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in values] + list(facts.values()))


def read_csv(path: Path) -> tuple[list[Measurement], dict[str, str]]:
    """What `write_csv` wrote: the measurements, and the facts of the machine."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: got no row, expected some of benches/losses.py")
    columns = {field.name: field.name.removesuffix("_") for field in dataclasses.fields(Measurement)}
    missing = sorted(set(columns.values()) - set(rows[0]))
    if missing:
        raise ValueError(f"{path}: got no column {', '.join(missing)}, expected a table of benches/losses.py")
    convert = {"str": str, "int": int, "float": float, "float | None": lambda text: float(text) if text else None}
    measurements = [
        Measurement(
            **{field.name: convert[field.type](row[columns[field.name]]) for field in dataclasses.fields(Measurement)}
        )
        for row in rows
    ]
    return measurements, {name: text for name, text in rows[0].items() if name not in columns.values()}
