"""`make demo`, with fewer pictures."""

import json
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from jobs.demo.bad_urls import BAD_URLS
from jobs.demo.pictures import DEMO_SEED
from tests.browser.checks import DESK, PHONE, check_page
from tests.e2e.conftest import ROOT, Command

pytestmark = [pytest.mark.e2e, pytest.mark.ray]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's folder."""
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def demo(command: Command, output: Path) -> subprocess.CompletedProcess[str]:
    """The demo on seeds that neither a recipe nor `make demo` draws from."""
    return command(
        "-m", "jobs.demo", "--pictures", 120, "--seed", DEMO_SEED + 1_000_000, "--port", 0,
        "--training-steps", 6, "--prompts", 6, "--mixed-steps", 2, "--output", output,
    )  # fmt: skip


def test_flawed_pictures_are_dropped_and_good_ones_kept(demo: subprocess.CompletedProcess[str]):
    assert demo.returncode == 0, demo.stdout[-5000:]
    for kind in ("blur", "noise", "low_contrast", "wrong_caption", "exact_copy", "good"):
        assert f"\n{kind} " in demo.stdout
    assert "NOT AS EXPECTED" not in demo.stdout
    assert "every row is accounted for" in demo.stdout


def test_every_kind_of_bad_url_meets_its_reason(demo: subprocess.CompletedProcess[str]):
    line = next(line for line in demo.stdout.splitlines() if line.startswith("bad URLs"))
    assert line.split()[2:4] == [str(len(BAD_URLS))] * 2


def test_it_ends_with_a_contact_sheet_and_a_run_that_verifies(
    demo: subprocess.CompletedProcess[str], output: Path, command: Command
):
    assert f"contact sheet: {output / 'contact_sheet.png'}" in demo.stdout
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.width > 1000
    verified = command("jobs/verify.py", output / "run", "--deep")
    assert verified.returncode == 0, verified.stdout


@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("run", ["run", "generated"])
def test_its_reports_open_in_a_browser(
    demo: subprocess.CompletedProcess[str],
    output: Path,
    browser: Any,
    run: str,
    size: tuple[int, int],
):
    report = output / run / "report/index.html"
    assert f"{report} (" in demo.stdout
    check_page(browser, report, size=size, scheme="light")


def test_it_trains_the_shipped_model_and_shows_the_loss_and_samples(
    demo: subprocess.CompletedProcess[str], output: Path
):
    training = output / "training"
    lines = (training / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6
    assert json.loads(lines[-1])["loss"] < 0.5  # a fresh model's is about 1
    for name in ("loss_curve.png", "samples/step-00000006.png"):
        assert str(training / name) in demo.stdout
        with Image.open(training / name) as picture:
            assert picture.width > 300
    assert (training / "model/model_index.json").exists()


def test_it_generates_with_the_trained_model_and_trains_on_with_the_images(
    demo: subprocess.CompletedProcess[str], output: Path, command: Command
):
    assert f"{output / 'generated'}, 6 images kept" in demo.stdout  # the better one of each prompt
    with Image.open(output / "generated.png") as grid:
        assert grid.width > 300
    verified = command("jobs/verify.py", output / "generated", "--deep")
    assert verified.returncode == 0, verified.stdout
    lines = (output / "mixed-training/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2


def test_a_folder_of_someone_else_is_not_cleared(command: Command, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("final")
    refused = command("-m", "jobs.demo", "--output", tmp_path)
    assert refused.returncode == 2
    assert "is not empty and was not written by this command" in refused.stdout
    assert (tmp_path / "thesis.txt").read_text() == "final"


def test_help_needs_nothing_but_python(command: Command):
    shown = command("-m", "jobs.demo", "--help")
    assert shown.returncode == 0
    assert "--pictures" in shown.stdout


@pytest.mark.parametrize(
    ("name", "run", "pictures"),
    [("curated_run", "run", 3), ("latents", "run", 5), ("samples", "generated", 2)],
)
def test_the_notebooks_run_from_top_to_bottom_on_what_it_left(
    name: str,
    run: str,
    pictures: int,
    demo: subprocess.CompletedProcess[str],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("LATENT_FOUNDRY_RUN", str(output / run))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # works without an install too
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=120, resources=where).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == pictures
