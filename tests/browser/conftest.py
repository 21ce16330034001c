"""A headless Chromium: Debian's where it is installed, else Playwright's own."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Skips, saying so, where there is none (`make test` tries to get one)."""
    with sync_playwright() as playwright:
        found = _launch(playwright)
        yield found
        found.close()


def _launch(playwright: Playwright) -> Browser:
    installed = next(filter(None, map(shutil.which, _NAMES)), None)
    try:
        # Chromium's own sandbox needs rights that a container's root has not.
        return playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
    except Error as error:
        pytest.skip(f"no browser: {str(error).splitlines()[0]}")
