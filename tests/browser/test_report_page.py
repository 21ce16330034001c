"""The report in a real browser: quiet, self-contained, and usable by everyone."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from pipelines.report import write_report
from pipelines.storage import RunStore
from tests.contracts import cases, generation_cases

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE, DESK = (390, 844), (1280, 900)


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
    page, told = open_page(browser, pages[name], size=size, scheme=scheme)
    violations = Axe().run(page).response["violations"]
    assert told == []
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.evaluate("document.images.length") > 2


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


def open_page(
    browser: Browser, path: Path, *, size: tuple[int, int], scheme: str
) -> tuple[Page, list[str]]:
    """The page, and what it said on the console, threw, or asked of the network."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda r: told.append(r.url) if not is_local(r.url) else None)
    page.goto(path.as_uri())
    return page, told


def is_local(url: str) -> bool:
    return url.startswith(("data:", "file:"))
