"""What a run shows and leaves behind: a table for each epoch, history.csv, curves.png and predictions.png."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table

import rarepixel as rp

from .checkpoint import write_atomically
from .training import Row, Training

# What a run leaves in the output folder, beside the tiles.
FILES = ("checkpoint.pt", "history.csv", "curves.png", "predictions.png")
# Rows of predictions.png.
_SAMPLES = 4


def epoch_report(row: Row, epochs: int) -> Group:
    """The scores of an epoch on the validation tiles, and its times."""
    table = Table(title=f"epoch {row['epoch']:.0f} of {epochs}", title_justify="left", title_style="bold")
    table.add_column("class")
    table.add_column("Dice", justify="right")
    table.add_column("recall", justify="right")
    for name in rp.xbd.CLASS_NAMES:
        table.add_row(name, f"{row[f'dice_{name}']:.3f}", f"{row[f'recall_{name}']:.3f}")
    prefix = "train_loss_"
    parts = [f"{row[name]:.4f} at {name.removeprefix(prefix)}" for name in row if name.startswith(prefix)]
    of_parts = f" ({' + '.join(parts)})" if parts else ""
    lines = (
        f"loss {row['train_loss']:.4f}{of_parts}, validation {row['validation_loss']:.4f}",
        f"xView2 score {row['xview2_score']:.3f}: F1 of localization {row['localization_f1']:.3f}, "
        f"of damage {row['damage_f1']:.3f}",
        f"accuracy {row['accuracy']:.2%}",
        f"{row['loss_seconds']:.2f} s in the loss of {row['seconds']:.1f} s",
    )
    return Group(table, *lines, "")


def write_history(path: Path, history: Sequence[Row]) -> None:
    """One line for each epoch; nan where a class has no value."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(history[0]))
    writer.writeheader()
    writer.writerows(history)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def keep_earlier(output: Path) -> Path | None:
    """Move the files of an earlier run into a folder of their own, from which it can be gone on with; where it is."""
    files = [output / name for name in FILES if (output / name).exists()]
    if not files:
        return None
    kept = next(folder for number in itertools.count(1) if not (folder := output / f"run-{number}").exists())
    kept.mkdir()
    for file in files:
        file.rename(kept / file.name)
    return kept


def write_pictures(training: Training, output: Path) -> None:
    """curves.png, and predictions.png of the validation tiles with the most kinds of damage.

    Real tiles may differ in size, and one picture has one size: those of another size than the first are left out.
    """
    rp.plot.loss_curves(training.history).savefig(output / "curves.png")
    tiles = [training.data.validation[index] for index in _most_damaged(training)]
    alike = [tile for tile in tiles if tile[-1].shape == tiles[0][-1].shape]
    pre, post, mask = (torch.stack(parts) for parts in zip(*alike, strict=True))
    figure = rp.plot.damage_panel(pre, post, mask, training.predict(pre, post))
    figure.savefig(output / "predictions.png")


def _most_damaged(training: Training) -> list[int]:
    """Validation tiles, those with most classes and then most damaged pixels first."""

    whole, indices = training.data.whole, training.data.validation.indices

    def damage(index: int) -> tuple[int, int]:
        # Of the mask alone: the images need not be decoded.
        counts = rp.xbd._count([whole.tiles[indices[index]]], whole.un_classified, whole.max_pixels)[2:]
        return int((counts > 0).sum()), int(counts.sum())

    return sorted(range(len(training.data.validation)), key=damage, reverse=True)[:_SAMPLES]
