"""`make photographs`, with fewer of them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.browser.checks import DESK, PHONE, check_page
from tests.e2e.conftest import Command

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command's folder."""
    return tmp_path_factory.mktemp("photographs") / "out"


@pytest.fixture(scope="module")
def photographs(
    command: Command, shared_data: Path, output: Path
) -> subprocess.CompletedProcess[str]:
    """The command, with thirty photographs."""
    return command(
        "-m", "jobs.demo.photographs", "--photos", shared_data / "photos/coco_mini",
        "--count", 30, "--bad-urls", 15, "--port", 0, "--output", output,
    )  # fmt: skip


def test_thirty_photographs_and_fifteen_bad_urls(
    photographs: subprocess.CompletedProcess[str], output: Path
):
    assert photographs.returncode == 0, photographs.stdout[-5000:]
    for line in (
        "ok      45 of 45 rows accounted for",
        "ok      15 of 15 bad URLs under their reason",
        "ok      30 of 30 photographs kept",
        "ok      images that are not 512x512 RGB8: none",
        "ok      30 latents decode to",
    ):
        assert line in photographs.stdout
    run = json.loads((output / "run/run.json").read_text())
    assert "RANDOM weights" in json.dumps(run["models"])


@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_its_report_opens_in_a_browser(
    photographs: subprocess.CompletedProcess[str],
    output: Path,
    browser: Any,
    size: tuple[int, int],
):
    check_page(browser, output / "run/report/index.html", size=size, scheme="light")
