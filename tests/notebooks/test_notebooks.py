"""Notebooks are stored without outputs, and hold calls alone; tests/e2e runs them."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
LOGIC = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.If, ast.IfExp, ast.Try)


def test_there_is_one_for_each_thing_to_look_at() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["curated_run", "latents", "own_data", "samples"]


def test_no_output_is_stored() -> None:
    command = [sys.executable, "-m", "nbstripout", "--verify", *map(str, NOTEBOOKS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_call_what_is_elsewhere(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 20
            logic = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, LOGIC)]
            assert not logic, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_of_ours_only_the_public_names_are_used(path: Path) -> None:
    cells = (cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    modules: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in cells))):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    ours = {module for module in modules if module.startswith(("jobs", "pipelines", "sd_core"))}
    assert ours <= {"pipelines", "sd_core"}
    assert "pipelines" in ours
