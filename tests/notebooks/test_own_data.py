"""The notebook of one's own pictures runs from top to bottom, on a folder with captions beside."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipelines import open_run
from tests.contracts.source_cases import picture

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def test_a_folder_becomes_a_kept_set_a_cache_a_model_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "own"
    pictures.mkdir()
    for number in range(12):
        (pictures / f"{number:02d}.jpg").write_bytes(picture(20 * number))
        (pictures / f"{number:02d}.txt").write_text(f"a shade of red, number {number}")
    monkeypatch.setenv("LATENT_FOUNDRY_PICTURES", str(pictures))
    monkeypatch.setenv("LATENT_FOUNDRY_OUTPUT", str(output))
    monkeypatch.setenv("LATENT_FOUNDRY_STEPS", "2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "notebooks/own_data.ipynb", as_version=4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert open_run(output / "run").kept().num_rows == 12
    assert open_run(output / "generated").kept().num_rows == 8
