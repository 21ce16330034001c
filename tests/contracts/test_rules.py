"""One rule language at two places: before the fetch it saves downloads, after it says the same."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import curate, verify
from jobs.demo.server import LoopbackServer
from pipelines.rules.table import RULES
from tests.contracts.job_cases import Outcome, call
from tests.contracts.source_cases import picture
from tests.contributing.example_filter import EndsWithRule

GERMAN = ("ein alter Baum steht auf der grünen Wiese", "die Katze schläft neben dem warmen Ofen")
ENGLISH = ("an old tree stands in the green meadow", "the cat sleeps beside the warm stove")
CAPTIONS = [
    *ENGLISH,
    *GERMAN,
    "the house by the lake in winter with snow on it",
    None,
    *["the sea in the evening light"] * 2,
]
SIZES = [640, 300, 640, 640, 200, 640, None, 640]
NUM_ROWS = len(CAPTIONS)
ENGLISH_ONLY = {"column": "caption_language", "one_of": ["en"], "missing": "keep"}


@dataclass
class Curation:
    """A list of pictures on a server, and the command over it."""

    folder: Path
    server: LoopbackServer
    capsys: pytest.CaptureFixture[str]

    def run(self, output: str, *arguments: str, **settings: Any) -> Outcome:
        """Call the command on a run of that name."""
        tree = {
            "output": str(self.folder / output),
            "source": {"path": str(self.folder / "list.parquet")},
            "plan": {"rows_per_shard": 3},
            "image": {"size": 32},
            "engine": {"runner": "local"},
            **settings,
        }
        download = {"allow_networks": ["127.0.0.0/8"], "retries": 0}
        tree["download"] = download | settings.get("download", {})
        (self.folder / "config.yaml").write_text(yaml.safe_dump(tree))
        config = str(self.folder / "config.yaml")
        return call(curate.main, "--config", config, *arguments, capsys=self.capsys)

    def rows(self, output: str) -> list[dict[str, Any]]:
        """The ledger in the list's order."""
        files = sorted((self.folder / output / "ledger").iterdir())
        return pa.concat_tables(pq.read_table(file) for file in files).to_pylist()

    def asked(self) -> list[int]:
        """Which rows' pictures the server was asked for since the last call, in order."""
        numbers = sorted(int(path[1:].partition(".")[0]) for path in self.server.hits.elements())
        self.server.hits.clear()
        return numbers

    def verified(self, output: str) -> bool:
        """Whether the whole run is sound."""
        return verify.main([str(self.folder / output), "--deep"]) == 0


@pytest.fixture
def curation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Curation]:
    (tmp_path / "pictures").mkdir()
    for number in range(NUM_ROWS):
        (tmp_path / f"pictures/{number}.jpg").write_bytes(picture(20 + 20 * number))
    with LoopbackServer(tmp_path / "pictures") as server:
        columns = {
            "url": [f"{server.url}/{number}.jpg" for number in range(NUM_ROWS)],
            "caption": CAPTIONS,
            "width": SIZES,
            "height": [480] * NUM_ROWS,
            "licence": ["CC0", "CC0", "CC0", "all rights", "CC0", "CC0", "CC0", None],
            "year": ["2001", "2002", "1999", "2003", "around 1990", "2004", "2005", "2006"],
        }
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        yield Curation(tmp_path, server, capsys)


def reasons(rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    return [row["reason"] for row in rows]


def kept(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return [number for number, row in enumerate(rows) if row["kept"]]


def test_a_language_filter_before_the_fetch_saves_the_downloads(curation: Curation) -> None:
    assert curation.run("run", download={"rules": [ENGLISH_ONLY]}).code == 0
    rows = curation.rows("run")
    german = [row for row in range(NUM_ROWS) if CAPTIONS[row] in GERMAN]
    assert [n for n in range(NUM_ROWS) if rows[n]["reason"] == "value_not_allowed"] == german
    assert {rows[n]["rule"] for n in german} == {"caption_language is en"}
    assert curation.asked() == [n for n in range(NUM_ROWS) if n not in german]
    # What is known of a caption is known of those that were not fetched, too.
    assert [rows[n]["caption_language"] for n in german] == ["de", "de"]
    assert [rows[n]["caption_words"] for n in german] == [len(CAPTIONS[n].split()) for n in german]
    assert all(rows[n]["status"] is None for n in german)
    assert curation.verified("run")
    # The same rule after the fetch keeps the same rows, at the price of the downloads.
    assert curation.run("after", select={"rules": [ENGLISH_ONLY]}).code == 0
    assert curation.asked() == list(range(NUM_ROWS))
    after = curation.rows("after")
    told = ("kept", "reason", "rule", "caption_chars", "caption_words", "caption_language")
    assert [[r[name] for name in told] for r in rows] == [[r[name] for name in told] for r in after]
    assert curation.verified("after")


def every_rule(curation: Curation) -> list[dict[str, Any]]:
    """One of each form that both places take."""
    folder = curation.folder
    (folder / "urls.txt").write_text(f"{curation.server.url}/7.jpg\n")
    (folder / "words.txt").write_text("snow\n")
    return [
        {"claimed": "side", "min": 256},
        {"block_words": str(folder / "words.txt")},
        {"column": "source_licence", "one_of": ["CC0"], "missing": "keep", "name": "licence"},
        {"caption": "words", "min": 1},
        {"block": {"urls": str(folder / "urls.txt")}, "name": "asked to leave out"},
        {"sql": "source_year::int > 2000 and caption_words < 9", "name": "recent"},
    ]


def test_every_form_says_the_same_at_both_places(curation: Curation) -> None:
    rules = every_rule(curation)[1:]
    assert curation.run("before", download={"rules": rules}).code == 0
    rows = curation.rows("before")
    assert reasons(rows) == [
        *(None, None, "condition_not_met", "value_not_allowed", "word_blocked"),
        *("caption_too_short", None, "url_blocked"),
    ]
    assert [row["rule"] for row in rows] == [
        *(None, None, "recent", "licence", "list of words in caption"),
        *("caption words >= 1", None, "asked to leave out"),
    ]
    assert curation.asked() == kept(rows) == [0, 1, 6]
    assert curation.run("after", select={"rules": rules}).code == 0
    after = curation.rows("after")
    assert [(r["reason"], r["rule"]) for r in after] == [(r["reason"], r["rule"]) for r in rows]
    assert curation.verified("before")
    assert curation.verified("after")


def test_a_row_that_a_condition_fails_on_before_the_fetch_ends_alone(curation: Curation) -> None:
    rule = {"sql": "source_year::int > 2000", "name": "recent"}
    assert curation.run("run", download={"rules": [rule]}).code == 0
    rows = curation.rows("run")
    assert (rows[4]["reason"], rows[4]["rule"]) == ("row_failed", "recent")
    assert rows[4]["error_message"].startswith("ConversionException: ")
    assert kept(rows) == curation.asked() == [0, 1, 3, 5, 6, 7]
    assert curation.verified("run")


def test_a_block_list_holds_for_urls_before_the_fetch_and_for_contents_after(
    curation: Curation,
) -> None:
    content = (curation.folder / "pictures/2.jpg").read_bytes()
    (curation.folder / "sha256.txt").write_text(f"{hashlib.sha256(content).hexdigest()}\n")
    (curation.folder / "urls.txt").write_text(f"{curation.server.url}/1.jpg\n")
    block = {"sha256": str(curation.folder / "sha256.txt")}
    rules = [{"block": block}, {"block": {"urls": str(curation.folder / "urls.txt")}}]
    assert curation.run("run", download={"rules": rules}).code == 0
    rows = curation.rows("run")
    assert [rows[1]["reason"], rows[2]["reason"]] == ["url_blocked", "sha256_blocked"]
    assert curation.asked() == [0, *range(2, NUM_ROWS)]
    assert kept(rows) == [0, *range(3, NUM_ROWS)]
    assert curation.run("after", select={"rules": rules}).code == 0
    assert reasons(curation.rows("after")) == reasons(rows)
    assert curation.verified("after")


OLD = {
    "rules": {"min_side": 256, "max_caption_chars": 60, "missing_values": "drop"},
    "select": {"thresholds": {"source_year_number": {"min": 2000, "missing": "keep"}}},
}
NEW = {
    "download": [
        {"claimed": "side", "min": 256, "missing": "drop"},
        {"caption": "characters", "max": 60},
    ],
    "select": [{"column": "source_year_number", "min": 2000, "missing": "keep"}],
}


def with_numbers(curation: Curation) -> None:
    """Give the list a column of numbers."""
    path = curation.folder / "list.parquet"
    numbers = pa.array([2001, 2002, 1999, 2003, None, 2004, 2005, 1998])
    pq.write_table(pq.read_table(path).append_column("year_number", numbers), path)


def test_old_keys_load_say_what_to_write_and_their_run_resumes_in_the_new_spelling(
    curation: Curation,
) -> None:
    with_numbers(curation)
    (curation.folder / "domains.txt").write_text("nowhere.example\n")
    block = {"domains": str(curation.folder / "domains.txt")}
    old = curation.run("run", "--steps", "download", **OLD, block=block)
    assert old.code == 0
    told = [line.partition("] ")[2] for line in old.out.splitlines() if "an old key" in line]
    keys = [line.partition(":")[0] for line in told]
    assert keys == ["rules", "block", "select.thresholds"]
    # What it says can be written as it is said.
    written = [yaml.safe_load("[" + line.split(": [", 1)[1]) for line in told]
    assert written == [NEW["download"], [{"block": block}], NEW["select"]]
    assert curation.asked() == [0, 1, 2, 3, 5, 7]
    new = {"download": {"rules": written[0] + written[1]}, "select": {"rules": written[2]}}
    resumed = curation.run("run", **new)
    assert resumed.code == 0
    assert "an old key" not in resumed.out
    assert curation.asked() == []
    again = curation.run("run", **OLD, block=block)
    assert again.code == 0
    assert "nothing to do: every asked step is complete" in again.out
    rows = curation.rows("run")
    assert reasons(rows) == [
        *(None, None, "value_below_min", None, "claimed_size_below_min", None),
        *("claimed_size_below_min", "value_below_min"),
    ]
    assert rows[4]["rule"] == "claimed shorter side >= 256"
    assert curation.verified("run")


def test_another_order_is_another_download(curation: Curation) -> None:
    assert curation.run("run", download={"rules": NEW["download"]}).code == 0
    refused = curation.run("run", download={"rules": NEW["download"][::-1]})
    assert refused.code == 2
    assert "download.rules" in refused.err


WRONG = {
    "a score before the fetch": (
        {"download": {"rules": [{"column": "aesthetic_v2", "min": 5}]}},
        "download.rules.0: a rule by aesthetic_v2, which is not known before the fetch; "
        "select.rules takes it; known there: row, key, url, caption, caption_chars, "
        "caption_words, caption_language and source_<column of the list>",
    ),
    "a preset by sizes before the fetch": (
        {"download": {"rules": [ENGLISH_ONLY, {"preset": "datacomp_basic"}]}},
        "download.rules.1: a rule by original_width, original_height, which is not known",
    ),
    "SQL on a measured size before the fetch": (
        {"download": {"rules": [{"sql": "caption_words > 3 and sharpness > 9"}]}},
        "download.rules.0: a rule by sharpness, which is not known before the fetch",
    ),
    "no SQL before the fetch": (
        {"download": {"rules": [{"sql": "caption_words >"}]}},
        "download.rules.0: sql: Parser Error: ",
    ),
    "the best of the run before the fetch": (
        {"download": {"rules": [{"best_of": {"by": "caption_chars", "num_images": 2}}]}},
        "download.rules.0: best_of compares the rows of the whole run",
    ),
    "no such column anywhere": (
        {"download": {"rules": [{"column": "captoin", "one_of": ["x"]}]}},
        "download.rules.0: a rule by captoin, which is not known before the fetch; known there",
    ),
    "no such column in the list": (
        {"download": {"rules": [{"column": "source_lang", "one_of": ["en"]}]}},
        "download.rules.0: no column 'source_lang'; allowed: key, url, caption, "
        "caption_language, source_licence, source_year",
    ),
    "no such claim in the list": (
        {"download": {"rules": [{"claimed": "punsafe", "max": 0.5}]}},
        "download.rules.0: the list has no 'punsafe' column; its other columns are: width, "
        "height, licence, year",
    ),
    "no such rule": (
        {"download": {"rules": [{"langauge": "en"}]}},
        "download.rules.0: a rule has one of the keys sql, preset, best_of, domain_cap, block, "
        "block_keys, block_words, claimed, caption, column",
    ),
    "no such key of a rule": (
        {"download": {"rules": [{"claimed": "side", "mim": 3}]}},
        "download.rules.0.mim: unknown key; did you mean 'min'?",
    ),
    "a bound that a claim does not take": (
        {"download": {"rules": [{"claimed": "side", "max": 512}]}},
        "download.rules.0: claimed side takes min, and no other bound",
    ),
    "no such rule of select": (
        {"select": {"rules": [{"langauge": "en"}]}},
        "select.rules.0: a rule has one of the keys sql,",
    ),
    "a fact of captions that is off": (
        {"download": {"rules": [ENGLISH_ONLY]}, "caption_facts": {"caption_language": False}},
        "caption_facts.caption_language is off, and a rule goes by it",
    ),
    "no block list": (
        {"download": {"rules": [{"block": {"urls": "/nowhere/urls.txt"}}]}},
        "download.rules.0.block.urls /nowhere/urls.txt: cannot be read",
    ),
    "an empty block": (
        {"download": {"rules": [{"block": {}}]}},
        "download.rules.0: block needs one of urls, domains, sha256",
    ),
    "rules under both keys": (
        {"rules": {"min_side": 3}, "download": {"rules": [ENGLISH_ONLY]}},
        "rules beside download.rules: old keys and the new one for the same thing",
    ),
    "block under both keys": (
        {"block": {"urls": "/x"}, "download": {"rules": [ENGLISH_ONLY]}},
        "block beside download.rules: old keys and the new one for the same thing",
    ),
    "a threshold under both keys": (
        {"select": {"thresholds": {"width": {"min": 3}}, "rules": [{"column": "width", "min": 4}]}},
        "thresholds.width and rules.0: bounds on one column under an old key and its new one",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_rule_that_cannot_be_is_refused_before_anything_is_fetched(
    name: str, curation: Curation
) -> None:
    settings, message = WRONG[name]
    outcome = curation.run("run", **settings)
    assert outcome.code == 2
    assert message in outcome.err
    assert curation.asked() == []


def test_a_rule_from_outside_is_one_class_and_one_line(
    curation: Curation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {"caption_ends_with": "light"}
    unknown = curation.run("unknown", download={"rules": [rule]})
    assert unknown.code == 2
    assert "a rule has one of the keys" in unknown.err
    monkeypatch.setitem(RULES, "caption_ends_with", EndsWithRule)
    assert curation.run("before", download={"rules": [rule]}).code == 0
    rows = curation.rows("before")
    assert kept(rows) == curation.asked() == [6, 7]
    told = {(row["reason"], row["rule"]) for row in rows if not row["kept"]}
    assert told == {("condition_not_met", "caption_ends_with light")}
    assert curation.verified("before")
    assert curation.run("after", select={"rules": [{**rule, "name": "mine"}]}).code == 0
    after = curation.rows("after")
    assert kept(after) == [6, 7]
    assert after[0]["rule"] == "mine"
    # Another value is another run, as for every rule.
    assert curation.run("before", download={"rules": [{"caption_ends_with": "it"}]}).code == 2
    misspelt = curation.run("typo", download={"rules": [{**rule, "nam": "x"}]})
    assert "download.rules.0.nam: unknown key; did you mean 'name'?" in misspelt.err
