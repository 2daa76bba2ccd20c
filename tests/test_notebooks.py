"""The notebooks run from top to bottom, and their kept outputs are there and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import PROJECT

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
KEPT_BYTES = 1 << 20


def names(notebook: Path) -> str:
    return notebook.stem


def test_there_are_notebooks() -> None:
    assert [notebook.stem[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError, with the cell and its traceback
    assert kinds(notebook) == kinds(nbformat.read(path, as_version=4)), "the kept outputs are of other cells"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_kept_outputs_are_whole_and_small(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run it from top to bottom"
    assert not any("execution" in cell.metadata for cell in code), "times of execution: make notebooks leaves them out"
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)
    assert not any(
        output.get("name") == "stderr" or output.output_type == "error" for c in code for output in c.outputs
    )
    assert path.stat().st_size < KEPT_BYTES
    assert "site-packages" not in path.read_text(), "a path of somebody's machine"


def test_a_rerun_keeps_what_is_the_same(tmp_path: Path) -> None:
    """`make notebooks` without a change gives no diff, and keeps measured pictures unless it is told to measure."""
    import run

    path = tmp_path / "short.ipynb"
    cells = [
        nbformat.v4.new_code_cell("print(1)\nprint(2)", id="first"),
        nbformat.v4.new_code_cell("import time; print(time.time_ns())", id="second", metadata={"tags": ["measured"]}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    run.run(path, measure=False)
    first = path.read_bytes()
    run.run(path, measure=False)
    assert path.read_bytes() == first
    run.run(path, measure=True)
    assert path.read_bytes() != first
    notebook = nbformat.read(path, as_version=4)
    assert [output.text for output in notebook.cells[0].outputs] == ["1\n2\n"]


def kinds(notebook: object) -> list[set[str]]:
    """What each code cell shows, text or a picture: numbers and times may differ."""
    return [
        {"text" if output.output_type == "stream" else "picture" for output in cell.outputs}
        for cell in notebook.cells  # type: ignore[attr-defined]
        if cell.cell_type == "code"
    ]
