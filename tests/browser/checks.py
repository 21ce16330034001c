"""What every page of ours must hold in a real browser."""

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

PHONE, DESK = (390, 844), (1280, 900)


def check_page(browser: Browser, path: Path, *, size: tuple[int, int], scheme: str) -> None:
    """It opens quietly, fits the screen, shows every picture, and axe finds nothing."""
    page, told = open_page(browser, path, size=size, scheme=scheme)
    violations = Axe().run(page).response["violations"]
    assert told == []
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.evaluate("document.images.length") > 2
    page.context.close()


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
