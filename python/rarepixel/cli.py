"""The entry point of ``rarepixel`` and ``python -m rarepixel``; the commands are in :mod:`rarepixel.commands`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line.

    The commands are built with typer, an extra: where it is missing, this says how to get it.
    """
    try:
        from .commands import application
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(f'rarepixel: the command line needs {error.name}: pip install "rarepixel[demo]"')
    application()
