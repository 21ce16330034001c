"""What every page of ours must hold in a real browser."""

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

PHONE, TABLET, DESK = (390, 844), (820, 1180), (1440, 900)
_BROKEN_WORDS = """() => {
  const lines = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const whole = /(?<!\\S)[\\p{L}\\p{N}_]{2,24}(?![^\\s.,:;)])/gu;
  const found = [], range = document.createRange();
  for (let node; (node = walker.nextNode());) {
    const within = node.parentElement;
    if (!within.checkVisibility() || within.closest("pre, code, .unseen")) continue;
    for (const word of node.textContent.matchAll(whole)) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].map((rect) => Math.round(rect.top)));
      if (tops.size > 1) found.push(word[0]);
    }
  }
  return found;
}"""
"""Words of up to 24 letters that stand on more than one line."""


def check_page(browser: Browser, path: Path, *, size: tuple[int, int], scheme: str) -> None:
    """It opens quietly, fits the screen, shows every picture, and axe finds nothing."""
    page, told = open_page(browser, path.as_uri(), size=size, scheme=scheme)
    check_shown(page, told, size=size)
    assert page.evaluate("document.images.length") > 2
    page.context.close()


def check_shown(page: Page, told: list[str], *, size: tuple[int, int]) -> None:
    """As `check_page`, of what an open page shows now."""
    settle(page)
    violations = Axe().run(page).response["violations"]
    assert told == []
    found = [(v["id"], [node["html"] for node in v["nodes"]]) for v in violations]
    assert found == [], found
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    words = page.evaluate(_BROKEN_WORDS)
    assert words == [], words


def settle(page: Page) -> None:
    """Wait until its pictures are there; `wait_for_function` would need a policy that allows it."""
    for _ in range(100):
        if page.evaluate(
            "[...document.images].every(i => i.complete) && !document.querySelector('.waits')"
        ):
            return
        page.wait_for_timeout(100)


def open_page(
    browser: Browser, address: str, *, size: tuple[int, int], scheme: str
) -> tuple[Page, list[str]]:
    """The page, and what it said on the console, threw, or asked of another."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, told = context.new_page(), []
    own = address.partition("#")[0]
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("dialog", lambda dialog: told.append(f"dialog: {dialog.message}"))
    page.on("request", lambda r: None if r.url.startswith(("data:", own)) else told.append(r.url))
    page.goto(address)
    return page, told
