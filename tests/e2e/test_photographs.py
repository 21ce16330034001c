"""`make photographs`, with fewer of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.browser.checks import DESK, PHONE, check_page
from tests.e2e.conftest import Command

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.slow]


def test_thirty_photographs_and_fifteen_bad_urls(
    command: Command, shared_data: Path, tmp_path: Path, browser: Any
):
    result = command(
        "jobs/photographs.py", "--photos", shared_data / "photos/coco_mini",
        "--count", 30, "--bad-urls", 15, "--port", 0, "--output", tmp_path / "out",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-5000:]
    for line in (
        "ok      45 of 45 rows accounted for",
        "ok      15 of 15 bad URLs under their reason",
        "ok      30 of 30 photographs kept",
        "ok      images that are not 512x512 RGB8: none",
        "ok      30 latents decode to",
    ):
        assert line in result.stdout
    run = json.loads((tmp_path / "out/run/run.json").read_text())
    assert "RANDOM weights" in json.dumps(run["models"])
    for size in (PHONE, DESK):
        check_page(browser, tmp_path / "out/run/report/index.html", size=size, scheme="light")
