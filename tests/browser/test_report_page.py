"""The report in a real browser: quiet, self-contained, and usable by everyone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from pipelines.report.page import write_report
from pipelines.run.store import RunStore
from tests.browser.checks import DESK, PHONE, check_page, open_page
from tests.contracts import cases, generation_cases

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def pages(served_list, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a curated and of a generated run."""
    folder = tmp_path_factory.mktemp("reports")
    cases.run(cases.configuration(served_list.path, folder / "curated"))
    prompts = generation_cases.write_prompts(
        folder / "prompts.parquet", [{"prompt": f"a {c} square"} for c in ("red", "blue")]
    )
    generation_cases.run(generation_cases.configuration(prompts, folder / "generated"))
    for name in ("curated", "generated"):
        write_report(RunStore(str(folder / name)))
    return {name: folder / name / "report/index.html" for name in ("curated", "generated")}


@pytest.mark.parametrize("name", ["curated", "generated"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_quietly_fits_the_screen_and_passes_axe(
    browser: Browser, pages: dict[str, Path], name: str, size: tuple[int, int], scheme: str
) -> None:
    check_page(browser, pages[name], size=size, scheme=scheme)


def test_everything_can_be_reached_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = open_page(browser, pages["curated"], size=DESK, scheme="light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    wanted = page.locator("a, summary, [tabindex='0']").count()
    seen = set()
    for number in range(wanted):
        handle = page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", handle
        seen.add((number, handle))
        page.keyboard.press("Tab")
    assert len(seen) == wanted
    number_open = page.locator("details[open]").count()
    page.locator("details:not([open]) > summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == number_open + 1
