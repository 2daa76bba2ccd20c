"""The commands of ``rarepixel``. What a command needs is imported when it runs, so that ``--help`` is quick."""

# typer reads these annotations when the command line starts: no `from __future__ import annotations`.
import enum
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from . import __version__

application = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Losses(str, enum.Enum):
    """Whose losses the demo trains with."""

    rarepixel = "rarepixel"
    torch = "torch"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit()


@application.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Losses and data for finding rare pixels."""


@application.command()
def demo(
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoint, history and pictures.", show_default="demo-output")] = None,
    data: Annotated[Path | None, typer.Option(help="Root of real xBD tiles to train on.", show_default="synthetic tiles")] = None,
    losses: Annotated[Losses | None, typer.Option(help="Ours, or the same in plain torch.", show_default="rarepixel")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training tiles.", show_default="12")] = None,
) -> None:
    pass
