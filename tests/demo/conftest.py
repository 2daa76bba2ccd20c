"""Small runs of the demo."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from rarepixel.demo.options import Options

# Six tiles to train on, in batches of 2, and two to validate.
TINY = {"tiles": 8, "size": 64, "crop": 48, "batch_size": 2, "epochs": 2}


@pytest.fixture
def tiny(tmp_path):
    """Options of a run that takes a second."""

    def make(**changes):
        return Options(output=tmp_path, **TINY | changes)

    return make
