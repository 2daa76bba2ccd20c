"""Run the notebooks again and keep their outputs, so that a rerun without a change gives no diff.

`make notebooks`. Times of execution, which nbclient would write into each cell, are left out. A cell tagged "measured"
shows times of this machine: it keeps its picture unless `--measure` is given.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent


def run(path: Path, measure: bool) -> None:
    notebook = nbformat.read(path, as_version=4)
    kept = {cell.id: cell.outputs for cell in notebook.cells if "measured" in cell.metadata.get("tags", [])}
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            timeout=300,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this machine's Python
    for cell in notebook.cells:
        if kept.get(cell.get("id")) and not measure:
            cell.outputs = kept[cell.id]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for notebook in sorted(HERE.glob("*.ipynb")):
        print(notebook.name)
        run(notebook, measure="--measure" in sys.argv[1:])
