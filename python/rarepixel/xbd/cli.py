"""``rarepixel xbd ...``: what a user does with a root from the command line.

``python -m rarepixel.xbd.cli`` runs the same commands. What a command needs is imported when it runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from rarepixel import xbd
from rarepixel.weights import _METHODS, class_weights
from rarepixel.xbd._feed import make_feed
from rarepixel.xbd.score import score_pairs, score_tiles

application = typer.Typer(no_args_is_help=True, add_completion=False, help="xBD tiles: check, count, draw, pack, show.")

Root = Annotated[Path, typer.Argument(help="Folder in the official layout, or a pack.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="A split, again for more.", show_default="all")]
UnClassifiedOption = Annotated[xbd.UnClassified, typer.Option(help="What un-classified buildings become.")]
MaxPixels = Annotated[int, typer.Option(min=0, help="Larger images are refused.")]

Progress = Callable[[int], object]


@application.command()
def check(root: Root, splits: Splits = None, max_pixels: MaxPixels = xbd.MAX_PIXELS) -> None:
    """Read everything once and list what is wrong; exit code 1 where anything is, or no tile is complete."""
    with _errors("check"), _progress("checking", len(xbd.index(root, splits).tiles)) as done:
        tiles, problems = xbd.check(root, splits, max_pixels=max_pixels, progress=done)
    for problem in problems:
        typer.echo(str(problem))
    typer.echo(f"{tiles} complete tiles, {len(problems)} problems")
    _expect_tiles("check", root, tiles)
    raise typer.Exit(1 if problems else 0)


@application.command()
def stats(
    root: Root,
    splits: Splits = None,
    un_classified: UnClassifiedOption = "ignore",
    output: Annotated[Path | None, typer.Option(help="Write a picture of the class mix, such as mix.png.")] = None,
    max_pixels: MaxPixels = xbd.MAX_PIXELS,
) -> None:
    """Show each disaster's share of each class, and class weights by each method."""
    require("rich", *([] if output is None else ["matplotlib"]))
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    with _errors("stats"):
        picture = None if output is None else _picture(output)
        found = xbd.index(root, splits)
        tiles = xbd._of_disasters(root, found, None, None)
        counts = {}
        with _left_out(root, found), _progress("counting", len(tiles)) as done:
            for name in sorted({tile.disaster for tile in tiles}):
                chosen = [tile for tile in tiles if tile.disaster == name]
                counts[name] = xbd._count(chosen, un_classified, max_pixels, done)
        total = np.sum(list(counts.values()), axis=0)
        if not total.any():
            raise ValueError(f"{root}: every pixel of the masks is ignored (255), expected some of at least one class")
    classes = [Column(name, justify="right", overflow="fold") for name in xbd.CLASS_NAMES]
    table = Table(Column("disaster", no_wrap=True), *classes, title="pixels of each class in %")
    for name, row in [*counts.items(), ("all", total)]:
        table.add_row(escape(name), *(f"{share:.3f}" for share in 100 * row / max(1, row.sum())))
    weights = Table(
        Column("method", no_wrap=True),
        *(column.copy() for column in classes),
        title="rarepixel.class_weights(counts, method)",
    )
    for method in _METHODS:
        weights.add_row(method, *(f"{weight:.4g}" for weight in class_weights(total, method)))
    console = Console()
    console.print(table)
    console.print(weights)
    if picture is not None:
        with _errors("stats"):
            _draw_mix(counts, picture)
        typer.echo(f"wrote {picture}")


@application.command()
def masks(
    root: Root,
    splits: Splits = None,
    un_classified: UnClassifiedOption = "ignore",
    max_pixels: MaxPixels = xbd.MAX_PIXELS,
) -> None:
    """Write the targets that tiles lack, drawn from their labels."""
    with _errors("masks"):
        found = xbd.index(root, splits)
        _expect_tiles("masks", root, len(found.tiles))
        with _left_out(root, found), _progress("drawing", len(found.tiles)) as done:
            written, kept = xbd.write_targets(root, splits, un_classified, max_pixels=max_pixels, progress=done)
    typer.echo(f"{written} targets written, {kept} were there")


@application.command()
def pack(
    root: Root,
    output: Annotated[Path, typer.Argument(help="Folder to write to; give it to the loader as its root.")],
    splits: Splits = None,
    disasters: Annotated[
        list[str] | None, typer.Option(help="Only this disaster, again for more.", show_default="all")
    ] = None,
    exclude_disasters: Annotated[
        list[str] | None, typer.Option(help="Not this disaster, again for more.", show_default="none")
    ] = None,
    max_pixels: MaxPixels = xbd.MAX_PIXELS,
) -> None:
    """Write decoded tiles, from which crops are read without decoding; run it again to go on or after changes."""
    with _errors("pack"):
        found = xbd.index(root, splits)
        tiles = xbd._of_disasters(root, found, disasters, exclude_disasters)
        with _left_out(root, found), _progress("packing", len(tiles)) as done:
            written, kept = xbd.pack(
                root,
                output,
                splits,
                disasters=disasters,
                exclude_disasters=exclude_disasters,
                max_pixels=max_pixels,
                progress=done,
            )
    typer.echo(f"{written} tiles written, {kept} were there")


@application.command()
def show(
    root: Root,
    tile: Annotated[str, typer.Argument(help="Name of a tile, such as joplin-tornado_00000000.")],
    output: Annotated[
        Path | None, typer.Option(help="File to write, such as tile.png.", show_default="TILE.png")
    ] = None,
    splits: Splits = None,
    un_classified: UnClassifiedOption = "ignore",
    max_pixels: MaxPixels = xbd.MAX_PIXELS,
) -> None:
    """Draw a tile's pre and post image and its mask."""
    require("matplotlib")
    from rarepixel.plot import damage_panel

    with _errors("show"):
        picture = Path(f"{tile}.png") if output is None else _picture(output)
        found = xbd._of_disasters(root, xbd.index(root, splits), None, None)
        chosen = [candidate for candidate in found if candidate.name == tile]
        if not chosen:
            raise ValueError(f"tile: got {tile!r}, expected one of {len(found)} tiles such as {found[0].name!r}")
        if len(chosen) > 1:
            names = ", ".join(candidate.split for candidate in chosen)
            raise ValueError(f"tile: got {tile!r}, which each of the splits {names} has: choose one with --split")
        feed = make_feed(chosen, None, False, None, un_classified, max_pixels, 0)
        damage_panel(*feed.read_sample(0, 0), titles=[tile]).savefig(picture, dpi=150)
    typer.echo(f"wrote {picture}")


# Registered by rarepixel.commands, beside `xbd`.
def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED", help="Folder of prediction PNGs.")],
    targets: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of target PNGs.")],
    output: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
) -> None:
    """Print the xView2 score of prediction PNGs against targets, as the official scorer does: JSON.

    Either the challenge's names (test_damage_00000_prediction.png and test_localization_00000_prediction.png, targets
    ..._target.png), or xBD's own targets (<tile>_post_disaster_target.png, with the pre target for localization where
    it is there) and predictions of the same names.
    """
    with _errors("score", prefix="rarepixel"):
        pairs = score_pairs(predictions, targets)
        with _progress("scoring", len(pairs)) as done:
            result = score_tiles(pairs, progress=done)
        names = ("no_damage", "minor_damage", "major_damage", "destroyed")
        text = json.dumps(
            {
                "score": result.score,
                "damage_f1": result.damage_f1,
                "localization_f1": result.localization_f1,
                **{f"damage_f1_{name}": f1 for name, f1 in zip(names, result.class_f1, strict=True)},
            }
        )
        # First, so that it is not lost where the file cannot be written.
        typer.echo(text)
        if output is not None:
            output.write_text(text)


def require(*names: str) -> None:
    """End with a hint where one of the packages is not installed."""
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        sys.exit(f'rarepixel: this command needs {", ".join(missing)}: pip install "rarepixel[demo]"')


def _picture(output: Path) -> Path:
    """The file that a picture is written to, a PNG where its name has no suffix.

    Raises:
        OSError: there is a folder of that name, or none to write into.
        ValueError: a suffix that matplotlib cannot write.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    # A folder has no name to put a suffix to where it is "." or "/".
    path = output if output.suffix or not output.name else output.with_name(f"{output.name}.png")
    for taken in (output, path):
        if taken.is_dir():
            raise IsADirectoryError(f"--output: got {output}, expected a file, but {taken} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output: got {output}, expected a file in a folder that is there")
    # pgf takes a TeX installation.
    formats = sorted(FigureCanvasBase.get_supported_filetypes().keys() - {"pgf"})
    if path.suffix[1:].lower() not in formats:
        raise ValueError(f"--output: got {output}, expected a name that ends with one of {', '.join(formats)}")
    return path


def _draw_mix(counts: dict[str, np.typing.NDArray[np.int64]], path: Path) -> None:
    """Bars of the damage classes' shares for each disaster, in logarithmic scale: they span four decades."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 + 0.6 * len(counts)), layout="constrained")
    axes = figure.subplots()
    shares = np.array([row / max(1, row.sum()) for row in counts.values()])
    height = 0.8 / (len(xbd.CLASS_NAMES) - 1)
    for index, name in enumerate(xbd.CLASS_NAMES[1:]):
        places = np.arange(len(counts)) + (index - 1.5) * height
        color = np.array(xbd.CLASS_COLORS[index + 1]) / 255
        axes.barh(places, 100 * shares[:, index + 1], height, label=name, color=color)
    axes.set_xscale("log")
    axes.set_yticks(np.arange(len(counts)), list(counts))
    axes.invert_yaxis()
    axes.set_xlabel("share of the pixels in %")
    axes.legend()
    figure.savefig(path, dpi=150)


def _expect_tiles(command: str, root: Path, tiles: int) -> None:
    """Ends with exit code 1 where there is none: a wrong folder must not pass for a sound one."""
    if tiles == 0:
        typer.echo(f"rarepixel xbd {command}: {root}: no complete tile was found", err=True)
        raise typer.Exit(1)


@contextlib.contextmanager
def _left_out(root: Path, found: xbd.Index) -> Iterator[None]:
    """Tells in one line of the problems, for which incomplete tiles are left out, in place of Python's warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
    if found.problems:
        first = f"the first: {found.problems[0]} (all: rarepixel xbd check {root})"
        typer.echo(f"{len(found.problems)} problems, {first}")


@contextlib.contextmanager
def _progress(text: str, total: int) -> Iterator[Progress]:
    """A progress bar on standard error."""
    require("rich")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _errors(command: str, prefix: str = "rarepixel xbd") -> Iterator[None]:
    """What a user can put right is told in one line, without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"{prefix} {command}: interrupted", err=True)
        sys.exit(130)
    except (ValueError, OSError) as error:
        typer.echo(f"{prefix} {command}: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    application(prog_name="rarepixel xbd")
