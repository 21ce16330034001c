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
    assert [path.stem for path in NOTEBOOKS] == ["curated_run", "latents", "samples"]


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
