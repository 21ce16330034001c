"""The report and the card: sums are exact, hostile text stays text, the page stays small."""

import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml

from jobs.bench.ledger_case import make_facts
from jobs.report import main as report
from pipelines.report.card import CARD_FILE, write_card
from pipelines.report.histograms import Bound, Histogram
from pipelines.report.page import REPORT_FILE, make_report
from pipelines.report.speeds import gather_rates
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.rates import RateLog, read_rates
from pipelines.run.record import (
    StepIdentity,
    complete_step,
    read_revision,
)
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS, later_steps
from pipelines.steps.select import Select, SelectConfig
from tests.contracts import cases
from tests.contracts.cases import HOSTILE


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.is_reason = self.is_summary = False
        self.summaries: list[list[str]] = []
        """Reason, count and what else is said, of each."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.is_summary = tag in ("h3", "b", "span") and self.is_reason
        if tag == "details":
            self.is_reason = dict(attrs).get("class") == "reason"
            self.summaries += [[]] if self.is_reason else []

    def handle_endtag(self, tag: str) -> None:
        self.is_summary = False
        self.is_reason = self.is_reason and tag != "summary"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.is_summary:
            self.summaries[-1].append(data.strip())
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, hostile_list: Path) -> Path:
    output = tmp_path_factory.mktemp("curated") / "run"
    cases.run(cases.configuration(hostile_list, output))
    return output


@pytest.fixture(scope="module")
def hostile_list(served_list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract tests' list with markup in captions, URLs and licences."""
    path = tmp_path_factory.mktemp("hostile") / "list.parquet"
    return cases.write_hostile_list(served_list.path, path)


@pytest.fixture(scope="module")
def page(curated: Path) -> Page:
    return Page(make_report(RunStore(str(curated))))


def test_the_funnel_and_the_reasons_add_up(curated: Path, page: Page) -> None:
    steps = read_revision(RunStore(str(curated))).steps
    shown: Counter[str] = Counter()
    for reason, count, *_ in page.summaries:
        shown[reason] += int(count)
    assert shown == steps["select"].dropped
    funnel = {row[0]: [int(cell) for cell in row[1:4]] for row in page.rows if row[0] in steps}
    assert list(funnel) == ["download", "select", "encode"]
    assert all(came == dropped + kept for came, dropped, kept in funnel.values())
    assert funnel["select"][0] == steps["download"].kept
    assert f"{steps['select'].kept} of {steps['select'].rows_in} rows are kept" in page.text


def test_it_needs_nothing_but_itself(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("script", "iframe", "object", "form", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), attributes
    policy = next(a for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy["content"].startswith("default-src 'none'")


def test_hostile_text_is_shown_as_text(page: Page) -> None:
    assert HOSTILE in page.text
    assert "javascript:alert(3)" in page.text
    assert any(attributes.get("alt") == HOSTILE for _, attributes in page.tags)


def test_pictures_and_thresholds_are_there(page: Page) -> None:
    pictures = [
        a["src"] for t, a in page.tags if t == "img" and a["src"].startswith("data:image/w")
    ]
    assert len(pictures) > 30
    assert "threshold >= 6" in page.text


def test_the_command_writes_it_into_the_run_and_the_job_writes_the_card(
    curated: Path, tmp_path: Path
) -> None:
    assert report([str(curated)]) == 0
    assert (curated / REPORT_FILE).stat().st_size > 10_000
    assert report([str(curated), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_bytes() == (curated / REPORT_FILE).read_bytes()
    assert report([str(tmp_path)]) == 2


def test_the_card_has_a_header_and_all_counts_and_marks_nothing_up(curated: Path) -> None:
    text = (curated / CARD_FILE).read_text()
    header, _, body = text.removeprefix("---\n").partition("\n---\n")
    tree = yaml.safe_load(header)
    assert tree["size_categories"] == ["n<1K"]
    for config in tree["configs"]:
        for file in config["data_files"][0]["path"]:
            assert list(curated.glob(file))
    select = read_revision(RunStore(str(curated))).steps["select"]
    rows = [line.split("|")[1:-1] for line in body.splitlines() if line.startswith("| ")]
    counted = [row for row in rows if len(row) == 3 and row[1].strip() in ("download", "select")]
    assert sum(int(row[2]) for row in counted) == sum(select.dropped.values())
    licences = [line for line in body.splitlines() if "CC0" in line or "onerror" in line]
    assert all(line.count("`") == 2 and line.count("|") == 3 for line in licences)
    assert len(licences) == 2
    write_card(RunStore(str(curated)))
    assert (curated / CARD_FILE).read_text() == text


def test_hugging_face_loads_what_the_card_names(curated: Path, tmp_path: Path) -> None:
    steps = read_revision(RunStore(str(curated))).steps
    for name, step in (("images", "select"), ("latents", "encode")):
        found = datasets.load_dataset(str(curated), name, cache_dir=str(tmp_path / name))
        assert found["train"].num_rows == steps[step].kept > 0


def test_a_readme_of_somebody_else_is_left_alone(curated: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(curated, tmp_path / "copy"))
    (copy / CARD_FILE).write_text("my own words\n")
    write_card(RunStore(str(copy)))
    assert (copy / CARD_FILE).read_text() == "my own words\n"


def test_rates_of_every_step_are_those_that_the_job_recorded(curated: Path, page: Page) -> None:
    [job] = read_rates(RunStore(str(curated)))
    steps = read_revision(RunStore(str(curated))).steps
    assert {rates.step: sum(rates.rows) for rates in job} == {
        name: step.rows_in for name, step in steps.items()
    }
    for rates in gather_rates([job, job]):
        seconds = np.diff(rates.edges_s)
        assert (rates.kept + rates.dropped) @ seconds == pytest.approx(rates.rows)
        assert rates.rows == 2 * steps[rates.step].rows_in
    assert f"{steps['score'].rows_in} rows in" in page.text


def test_a_run_without_recorded_rates_says_so(curated: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(curated, tmp_path / "copy"))
    (copy / "_work/rates.json").unlink()
    assert "No rates are recorded" in make_report(RunStore(str(copy)))


def test_rates_are_merged_into_wider_spells_and_lose_no_row() -> None:
    now = [0.0]
    log = RateLog(clock=lambda: now[0])
    log.start("score")
    for second in range(0, 1000, 7):
        now[0] = float(second)
        log.add(
            Manifest(
                step="score", fingerprint="f", shard_id=0, files=(), rows_in=10, kept=9,
                dropped={"x": 1},
            )
        )  # fmt: skip
    [rates] = log.rates()
    assert len(rates.rows) <= 120
    assert sum(rates.rows) == 10 * 143
    assert sum(rates.kept) == 9 * 143


def test_a_histogram_counts_every_row_once() -> None:
    histogram = Histogram(
        column="x", edges=np.linspace(0, 1, 41), bounds=[Bound(sign=">", value=1)]
    )
    values = np.array([-5.0, 0.0, 0.5, 1.0, 9.0, np.nan, np.inf])
    histogram.add(values, np.array([True, True, False, False, True, True, False]))
    assert histogram.kept.sum() == 3
    assert histogram.dropped.sum() == 2
    assert histogram.missing == 2


@pytest.mark.slow
def test_a_run_of_100_000_rows_makes_a_page_under_5_mb(tmp_path: Path) -> None:
    case = make_facts(tmp_path / "run", num_rows=100_000, metadata=tmp_path / "none")
    thresholds = {"aesthetic_v2": {"min": 4.5}, "punsafe": {"max": 0.5}}
    config = SelectConfig.model_validate({"thresholds": thresholds})
    select = StepIdentity(step="select", options={"select": config.identity()})
    Select(
        store=case.store,
        fingerprint=select.fingerprint,
        config=config,
        num_shards=case.num_shards,
        images=Committed(case.store, "download", case.images.fingerprint),
        score=Committed(case.store, "score", case.score.fingerprint),
        read_rows=lambda shard_id: pa.table({}),
    ).run(lambda manifest: None)
    check_or_record(case.store, [select], job={"job": "curate"})
    for step in (case.images, select):
        complete_step(
            case.store,
            step,
            num_shards=case.num_shards,
            folders=STEP_KINDS[step.step].paths,
            later=later_steps(step.step),
        )
    page = make_report(case.store)
    assert 100_000 < len(page.encode()) < 5_000_000
    assert "of 100,000 rows are kept" in Page(page).text
