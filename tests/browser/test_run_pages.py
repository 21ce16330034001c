"""The pages of a run, its report and that of `browse`, in a real browser: quiet, clean of what a
list holds, and usable by everyone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page

from pipelines import open_run
from pipelines.browse.server import BrowseServer
from pipelines.report.page import write_report
from pipelines.run.store import RunStore
from tests.browser.checks import DESK, PHONE, TABLET, check_page, check_shown, open_page, settle
from tests.contracts import cases, generation_cases

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RUNS = ("curated", "generated")
RULES = "[{column: aesthetic_v1, min: 5.0}, {column: clip_similarity, min: 0.5}]"


@pytest.fixture(scope="module")
def runs(served_list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated run of a hostile list, cut twice, with a report, and a generated one."""
    folder = tmp_path_factory.mktemp("runs")
    served = cases.write_hostile_list(served_list.path, folder / "list.parquet")
    first = {"select__rules": RULES, "select__duplicates": "{by: [sha256]}", "encode": "null"}
    cases.run(cases.configuration(served, folder / "curated", **first))
    write_report(RunStore(str(folder / "curated")))
    again = cases.configuration(served, folder / "curated", encode="null")
    cases.run(again, steps=("select", "publish"))
    prompts = generation_cases.write_prompts(
        folder / "prompts.parquet",
        [{"prompt": f"a {c} square", "num_images": 2} for c in ("red", "blue")],
    )
    generation_cases.run(generation_cases.configuration(prompts, folder / "generated"))
    write_report(RunStore(str(folder / "generated")))
    return folder


@pytest.fixture(scope="module")
def servers(runs: Path) -> Iterator[dict[str, str]]:
    """The address of each run's page."""
    with (
        BrowseServer(open_run(runs / "curated")) as curated,
        BrowseServer(open_run(runs / "generated")) as generated,
    ):
        yield {"curated": curated.url, "generated": generated.url}


def report_of(runs: Path, name: str) -> Path:
    return runs / name / "report/index.html"


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("size", "scheme"), [(PHONE, "dark"), (TABLET, "light"), (DESK, "dark"), (DESK, "light")]
)
def test_a_report_opens_quietly_fits_the_screen_and_passes_axe(
    browser: Browser, runs: Path, name: str, size: tuple[int, int], scheme: str
) -> None:
    check_page(browser, report_of(runs, name), size=size, scheme=scheme)


def test_a_report_is_made_anew_after_a_cut_and_says_of_what_it_is(
    browser: Browser, runs: Path
) -> None:
    page, _ = open_page(browser, report_of(runs, "curated").as_uri(), size=DESK, scheme="light")
    revision = open_run(runs / "curated").revision
    about = page.locator(".about").inner_text()
    assert about.startswith(f"revision\n{revision.number}, written 20")
    assert "list.parquet (56 rows)" in about
    assert "preset:tiny/clip" in about
    kept = revision.steps["select"].kept
    assert page.locator("#funnel").inner_text().startswith(f"{kept} of 56 rows are kept")
    for part in ("#funnel", ".glance tbody", ".biggest li:nth-child(3)", ".kept img:nth-child(12)"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= DESK[1], part
    names = page.locator("details.reason h3").all_inner_texts()
    assert len(names) >= len(revision.steps["select"].dropped)
    scored = page.locator("details.reason", has_text="aesthetic_v1_below_min").first
    assert scored.locator(".tile").count() == scored.locator(".score", has_text="aesthetic").count()


@pytest.mark.parametrize("size", [PHONE, TABLET, DESK], ids=["phone", "tablet", "desk"])
def test_rows_of_thumbnails_are_whole(browser: Browser, runs: Path, size: tuple[int, int]) -> None:
    page, _ = open_page(browser, report_of(runs, "curated").as_uri(), size=size, scheme="light")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    rows = page.evaluate(
        """[...document.querySelectorAll('.tiles, .kept')].map(tiles => {
             const tops = [...tiles.children].filter(t => t.checkVisibility())
               .map(t => Math.round(t.getBoundingClientRect().top));
             return [...new Set(tops)].map(top => tops.filter(t => t === top).length);
           })"""
    )
    assert rows
    assert [found for found in rows if len(set(found)) > 1] == []


def test_everything_of_a_report_can_be_reached_by_keyboard(browser: Browser, runs: Path) -> None:
    page, _ = open_page(browser, report_of(runs, "curated").as_uri(), size=DESK, scheme="light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    wanted = page.evaluate(
        """[...document.querySelectorAll("a, summary, [tabindex='0']")]
             .filter(e => e.matches('.skip') || e.checkVisibility()).length"""
    )
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


VIEWS: list[tuple[str, dict[str, Any]]] = [
    ("curated", {"tab": "rows", "view": {"sort": "aesthetic_v1", "descending": True}}),
    ("curated", {"tab": "moved", "view": {}, "column": "aesthetic_v1", "value": 7.0}),
    ("curated", {"tab": "cuts", "view": {}}),
    ("curated", {"tab": "copies", "view": {}}),
    ("curated", {"tab": "takedown", "view": {}}),
    ("generated", {"tab": "rows", "view": {}}),
    ("generated", {"tab": "prompts", "view": {}}),
]


def opened(
    browser: Browser, url: str, state: dict[str, Any], *, size: tuple[int, int], scheme: str
) -> tuple[Page, list[str]]:
    """The page of `browse` in a state, its rows shown."""
    address = f"{url}#{quote(json.dumps(state))}"
    page, told = open_page(browser, address, size=size, scheme=scheme)
    page.locator("#content > *").first.wait_for()
    page.wait_for_timeout(300)
    settle(page)
    return page, told


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESK, "light")])
def test_every_view_opens_quietly_fits_the_screen_and_passes_axe(
    browser: Browser, servers: dict[str, str], size: tuple[int, int], scheme: str
) -> None:
    for name, state in VIEWS:
        page, told = opened(browser, servers[name], state, size=size, scheme=scheme)
        check_shown(page, told, size=size)
        if state["tab"] == "rows":
            page.locator(".card .open").first.click()
            page.locator("dialog dt").first.wait_for()
            check_shown(page, told, size=size)
        page.context.close()


def test_a_hostile_list_stays_text(browser: Browser, servers: dict[str, str]) -> None:
    page, told = opened(
        browser, servers["curated"], {"tab": "rows", "view": {}}, size=DESK, scheme="light"
    )
    shown = page.locator(".grid .caption").all_inner_texts()
    assert cases.HOSTILE in shown
    assert any(text.startswith('=HYPERLINK("javascript:alert(4)") gnp.exe') for text in shown)
    page.locator("#search").fill("javascript:alert(3)")
    page.locator(".total", has_text="1 row").wait_for()
    page.locator(".card .open").first.click()
    page.locator("dialog dd", has_text="javascript:alert(3)").first.wait_for()
    assert page.locator("dialog a, main a, main script").count() == 0
    assert told == []


def test_the_rows_are_filtered_and_ordered_on_a_phone(
    browser: Browser, servers: dict[str, str], runs: Path
) -> None:
    page, told = opened(
        browser, servers["curated"], {"tab": "rows", "view": {}}, size=PHONE, scheme="dark"
    )
    ledger = open_run(runs / "curated").ledger(["reason", "kept", "aesthetic_v1"]).to_pylist()
    scores = sorted((r["aesthetic_v1"] for r in ledger if r["kept"]), reverse=True)
    page.locator("summary", has_text="Search, filter, sort").click()
    reason = "aesthetic_v1_below_min"
    page.locator("#reason").select_option(
        value=json.dumps(["select", reason, None], separators=(",", ":"))
    )
    wanted = sum(row["reason"] == reason for row in ledger)
    page.locator(".total", has_text=f"{wanted} rows").wait_for()
    page.locator(".chip", has_text="select: aesthetic v1 below min").click()
    page.locator("#verdict").select_option("kept")
    page.locator("#order").select_option("aesthetic_v1")
    page.locator("#column").select_option("aesthetic_v1")
    page.locator("#op").select_option("most")
    page.locator("#value").fill(str(round(scores[3] + 0.0001, 4)))
    page.locator("#value").press("Enter")
    page.locator(".total", has_text=f"{len(scores) - 3} rows").wait_for()
    page.locator(".card b", has_text=f"{scores[3]:.4g}").first.wait_for()
    page.reload()
    page.locator(".total", has_text=f"{len(scores) - 3} rows").wait_for()
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert told == []


def test_the_rows_by_keyboard(browser: Browser, servers: dict[str, str]) -> None:
    """From the address bar to a marked row's key in the takedown list, without a mouse."""
    page, _ = opened(
        browser, servers["curated"], {"tab": "rows", "view": {}}, size=DESK, scheme="light"
    )
    active = "document.activeElement"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{active}.className") == "skip"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(f"{active}.getAttribute('role')") == "gridcell":
            break
        assert page.evaluate(f"getComputedStyle({active}).outlineStyle") != "none"
    index = f"Number({active}.dataset.index)"
    assert page.evaluate(index) == 0
    for key, expected in (("ArrowRight", 1), ("ArrowDown", 7), ("Home", 6), ("Control+End", 55)):
        page.keyboard.press(key)
        assert page.evaluate(index) == expected, key
    page.keyboard.press("Control+Home")
    page.keyboard.press("Enter")
    page.locator("dialog[open] dt").first.wait_for()
    key = page.locator("#detail-title").inner_text().split()[0]
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.locator("dialog .place", has_text="2 of 56").wait_for()
    page.keyboard.press("Escape")
    page.locator("[data-index='1']:focus").wait_for()
    page.locator("[data-tab=takedown]").focus()
    page.keyboard.press("Enter")
    assert page.locator("#keys").input_value() == key


def test_a_threshold_is_moved_and_its_yaml_is_there(
    browser: Browser, servers: dict[str, str], runs: Path
) -> None:
    state = {"tab": "moved", "view": {}, "column": "aesthetic_v1"}
    page, told = opened(browser, servers["curated"], state, size=DESK, scheme="light")
    ledger = open_run(runs / "curated").ledger(["kept", "aesthetic_v1"]).to_pylist()
    kept = sum(row["kept"] for row in ledger)
    page.locator(".counts", has_text=f"{kept} rows kept").wait_for()
    page.locator("#exact").fill("7")
    then = sum(row["kept"] and row["aesthetic_v1"] >= 7 for row in ledger)
    page.locator(".counts", has_text=f"{then} rows kept").wait_for()
    assert "{column: aesthetic_v1, min: 7.0}" in page.locator("#yaml").inner_text()
    page.locator(".moved .grid[data-total]").wait_for()
    assert page.locator("[data-which=lost]").inner_text() == f"No longer kept: {kept - then}"
    page.locator("#slider").focus()
    page.keyboard.press("Home")
    page.locator("[data-which=lost]", has_text="No longer kept: 0").wait_for()
    assert told == []
