"""The notebooks run from top to bottom in an empty folder, as in a fresh clone, and define nothing."""

import ast
import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "jupyter").glob("*.ipynb"))


def code(notebook: nbformat.NotebookNode) -> str:
    """The code cells as one text, without the lines for IPython."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith("%"))


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compression_insights", "sensitivity_analysis"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_define_nothing_and_carry_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(code(notebook))) if isinstance(node, definitions)]
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(here)}}).execute()
    print(f"{path.stem}: {time.perf_counter() - started:.1f} s")
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    errors = [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not [output.text for output in errors if "Error" in output.text]
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    shown = [each["state"].get("outputs", []) for each in widgets.values() if each["model_name"] == "OutputModel"]
    assert shown
    assert all(each and each[0]["output_type"] == "display_data" for each in shown)  # a figure, no error
    assert list((here / "results" / "notebook").glob("*.xlsx"))
