"""The commands of ``rarepixel``. What a command needs is imported when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, doctor
from .demo.options import DEFAULTS
from .xbd.cli import application as xbd_application
from .xbd.cli import require, score

application = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


application.add_typer(xbd_application, name="xbd")
application.command()(score)


class Losses(str, enum.Enum):
    """Whose losses the demo trains with."""

    rarepixel = "rarepixel"
    torch = "torch"


def _default(name: str) -> str:
    return str(getattr(DEFAULTS, name))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@application.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Losses and data for finding rare pixels."""


application.command("doctor")(doctor.command)


# Options are None where they were not given: with --resume they then come from the checkpoint, else from the defaults.
@application.command()
def demo(
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for checkpoint, history and pictures.", show_default=_default("output")),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Root of real xBD tiles to train on.", show_default="synthetic tiles")
    ] = None,
    losses: Annotated[
        Losses | None, typer.Option(help="Ours, or the same in plain torch.", show_default=_default("losses"))
    ] = None,
    multi_scale: Annotated[
        bool | None,
        typer.Option("--multi-scale", help="Deep supervision: losses at 1/8, 1/4 and full resolution."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training tiles.", show_default=_default("epochs"))
    ] = None,
    tiles: Annotated[
        int | None, typer.Option(help="Synthetic tiles; a quarter validates.", show_default=_default("tiles"))
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of a synthetic tile in pixels.", show_default=_default("size"))
    ] = None,
    crop: Annotated[
        int | None, typer.Option(help="Side of the crops trained on.", show_default=_default("crop"))
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Crops in a batch, of all processes.", show_default=_default("batch_size"))
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default=_default("lr"))] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of tiles, order, crops and weights.", show_default=_default("seed"))
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that load tiles.", show_default=_default("workers"))
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")] = False,
) -> None:
    """Train a Siamese damage model on synthetic (or real) xBD tiles and show what it learns.

    Writes checkpoint.pt, history.csv, curves.png and predictions.png; those of an earlier run are moved to run-1, run-2
    and so on in the output folder. Ctrl-C saves a checkpoint first. On several processes: torchrun --nproc-per-node 2
    -m rarepixel demo; they share each batch.
    """
    given = {
        "output": output,
        "data": data,
        "losses": None if losses is None else losses.value,
        "multi_scale": multi_scale,
        "epochs": epochs,
        "tiles": tiles,
        "size": size,
        "crop": crop,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "workers": workers,
    }
    require("torch", "matplotlib", "rich")
    # torch's threads spin while they wait for each other; on a machine that does other work too, that takes the time of
    # whom they wait for (measured: 4x). Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .demo import ranks
    from .demo.run import INTERRUPTED, run

    try:
        status = run(given, resume)
    except KeyboardInterrupt:
        typer.echo("\nrarepixel demo: interrupted", err=True)
        status = INTERRUPTED
    except (ValueError, OSError) as error:
        typer.echo(f"rarepixel demo: {error}", err=True)
        status = 1
    ranks.leave(status)
