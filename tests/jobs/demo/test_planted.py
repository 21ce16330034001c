"""Planted pictures: as many of each kind as promised, and a judge that tells right from wrong."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.demo import planted as kinds
from jobs.demo.planted import PlantedRow, PlantedSet, write_planted
from jobs.demo.planted_recall import judge_planted, planted_table

COUNT = 250


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def planted(folder: Path) -> PlantedSet:
    return write_planted(folder, count=COUNT, server="http://host.example")


def content(folder: Path, url: str) -> bytes:
    return (folder / url.rpartition("/")[2]).read_bytes()


def test_there_are_as_many_of_each_kind_as_promised(planted: PlantedSet) -> None:
    assert Counter(row.planted for row in planted.rows) == {
        kinds.EXACT_COPY: 15,
        kinds.RE_ENCODED: 15,
        kinds.CHANGED: 15,
        kinds.FLAWED: 25,
        kinds.WRONG_CAPTION: 10,
        kinds.BLOCKED: 8,
        kinds.SINGLE: 162,
    }
    assert len({row.url for row in planted.rows}) == COUNT


def test_copies_come_after_their_own_original_and_share_its_bytes_only_where_exact(
    planted: PlantedSet, folder: Path
) -> None:
    place = {row.url: at for at, row in enumerate(planted.rows)}
    copies = [row for row in planted.rows if row.original is not None]
    assert len({row.original for row in copies}) == len(copies) == 45
    for row in copies:
        original = planted.rows[place[row.original or ""]]
        assert original.planted == kinds.SINGLE
        assert place[row.url] > place[original.url]
        assert row.caption == original.caption
        same = content(folder, row.url) == content(folder, original.url)
        assert same == (row.planted == kinds.EXACT_COPY)
    for row in planted.rows:
        with Image.open(folder / row.url.rpartition("/")[2]) as image:
            assert min(image.size) >= 64


def test_each_kind_of_block_list_has_its_share(planted: PlantedSet, folder: Path) -> None:
    blocked = [row for row in planted.rows if row.planted == kinds.BLOCKED]
    by_word = [row.url for row in blocked if kinds.BLOCKED_WORD in row.caption]
    digests = {hashlib.sha256(content(folder, row.url)).hexdigest(): row.url for row in blocked}
    by_bytes = [digests[digest] for digest in planted.sha256]
    assert sorted([*planted.urls, *by_bytes, *by_word]) == sorted(row.url for row in blocked)
    assert min(len(planted.urls), len(by_bytes), len(by_word)) >= 2


ENDS = {
    kinds.EXACT_COPY: "duplicate_bytes",
    kinds.RE_ENCODED: "duplicate_phash",
    kinds.CHANGED: "duplicate_embedding",
    kinds.FLAWED: "aesthetic_v1_below_min",
    kinds.WRONG_CAPTION: "clip_similarity_below_min",
    kinds.BLOCKED: "word_blocked",
}


def ledger(rows: list[PlantedRow], **other: str | None) -> list[dict[str, Any]]:
    """What a perfect run would make of the rows, but for `other`, by URL without its host."""
    reasons = {row.url: ENDS.get(row.planted) for row in rows}
    reasons |= {f"http://host.example/{name.replace('_', '.')}": end for name, end in other.items()}
    return [{"url": u, "kept": end is None, "reason": end} for u, end in reasons.items()]


def test_a_perfect_run_keeps_every_promise(planted: PlantedSet) -> None:
    rows = list(planted.rows)
    findings = judge_planted(rows, ledger(rows))
    assert findings.is_good_enough
    assert findings.exact == (15, 15)
    assert findings.near == (30, 30)
    assert findings.singles == (162 - 45, 0)
    assert planted_table(findings).count("100.00%") == 3


def named(planted: PlantedSet, kind: str, *, copied: bool = False) -> list[str]:
    originals = {row.original for row in planted.rows}
    rows = [r for r in planted.rows if r.planted == kind and (r.url in originals) == copied]
    return [row.url.rpartition("/")[2].replace(".", "_") for row in rows]


def test_each_broken_promise_is_seen(planted: PlantedSet) -> None:
    rows = list(planted.rows)
    single, blocked = named(planted, kinds.SINGLE), named(planted, kinds.BLOCKED)
    exact, near = named(planted, kinds.EXACT_COPY), named(planted, kinds.RE_ENCODED)
    broken: list[dict[str, str | None]] = [
        {exact[0]: None},
        dict.fromkeys(near[:2]),
        dict.fromkeys(single[:2], "duplicate_phash"),
        {blocked[0]: None},
        {single[0]: "no reason of the list"},
    ]
    for other in broken:
        assert not judge_planted(rows, ledger(rows, **other)).is_good_enough, other
    lost = ledger(rows)[1:] + ledger(rows)[1:2]
    with pytest.raises(KeyError):
        judge_planted(rows, lost)


def test_pair_of_which_a_rule_dropped_one_is_not_the_searchs_to_find(planted: PlantedSet) -> None:
    rows = list(planted.rows)
    copy = next(row for row in rows if row.planted == kinds.RE_ENCODED)
    original = (copy.original or "").rpartition("/")[2].replace(".", "_")
    name = copy.url.rpartition("/")[2].replace(".", "_")
    other: dict[str, str | None] = {original: "aesthetic_v1_below_min", name: None}
    findings = judge_planted(rows, ledger(rows, **other))
    assert findings.near == (29, 29)
