"""Copies: the best or the first stays, the others name it; nothing is swallowed by a chain."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import ConfigError
from pipelines.rows.ledger import REASONS
from pipelines.run.manifest import ShardError
from pipelines.run.record import REVISION_FILE
from pipelines.steps.select import check_select, input_digests
from pipelines.steps.select.stars import settle_stars
from tests.pipelines.steps.select.cases import (
    Row,
    cut,
    kept,
    ledger_of,
    reasons,
    select_config,
    sha256,
    write_facts,
)

NEAR = {"phash_distance": 3}


def bits(*on: int) -> str:
    """A hash with these of its 64 bits set."""
    return f"{sum(1 << bit for bit in on):016x}"


def vector(degrees: float) -> list[float]:
    """An embedding in a plane; its cosine with another is that of the difference."""
    return [float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))]


def copies(ledger: pa.Table) -> dict[int, tuple[str, str | None]]:
    """Of each duplicate: its reason, and what is said to stand for it."""
    rows = enumerate(ledger.select(["reason", "duplicate_of"]).to_pylist())
    return {at: (r["reason"], r["duplicate_of"]) for at, r in rows if r["duplicate_of"]}


def key(number: int) -> str:
    return f"{number:016x}"


def test_first_in_plan_order_stays_across_shards_whatever_the_keys_are(tmp_path: Path) -> None:
    texts = ["a", "b", "c", "a", "d", "c", "a"]
    keys = ["abc-0", "x", "my key", "abc-1", "f" * 80, "ünï", "0" * 16]
    rows = [{"sha256": sha256(t), "key": k} for t, k in zip(texts, keys, strict=True)]
    ledger = ledger_of(tmp_path, rows, duplicates="sha256", rows_per_shard=2)
    expected = {at: ("duplicate_bytes", keys[first]) for at, first in ((3, 0), (5, 2), (6, 0))}
    assert copies(ledger) == expected
    assert ledger["rule"][5].as_py() == "same sha256 as my key"


def test_best_by_a_score_stays_and_null_is_the_worst(tmp_path: Path) -> None:
    scores = [None, 3.0, 7.0, 7.0, 1.0]
    rows = [{"sha256": sha256("same"), "aesthetic_v2": score} for score in scores]
    duplicates = {"by": ["sha256"], "keep": "aesthetic_v2"}
    ledger = ledger_of(tmp_path / "a", rows, duplicates=duplicates, rows_per_shard=2)
    assert kept(ledger) == [2]
    assert set(copies(ledger).values()) == {("duplicate_bytes", key(2))}
    least = {**duplicates, "prefer": "lowest"}
    assert kept(ledger_of(tmp_path / "b", rows, duplicates=least, rows_per_shard=2)) == [4]


def test_only_rows_that_passed_every_rule_are_copied(tmp_path: Path) -> None:
    rows = [{"sha256": sha256("same"), "aesthetic_v2": score} for score in (1.0, 9.0, 8.0, 5.0)]
    rules = [{"best_of": {"by": "aesthetic_v2", "num_images": 2}}]
    ledger = ledger_of(tmp_path, rows, rules=rules, duplicates="sha256", rows_per_shard=2)
    assert reasons(ledger) == ["ranked_below_best", None, "duplicate_bytes", "ranked_below_best"]


def test_many_rows_agree_with_a_dictionary(tmp_path: Path) -> None:
    texts = np.random.default_rng(0).integers(0, 200, 600).astype(str).tolist()
    rows = [{"sha256": sha256(text)} for text in texts]
    ledger = ledger_of(tmp_path, rows, duplicates="sha256", rows_per_shard=50)
    first: dict[str, int] = {}
    expected = {}
    for at, text in enumerate(texts):
        if text in first:
            expected[at] = ("duplicate_bytes", key(first[text]))
        first.setdefault(text, at)
    assert copies(ledger) == expected


def test_urls_are_compared_levelled_and_redacted_ones_not_at_all(tmp_path: Path) -> None:
    urls = [
        "https://host.example/a.jpg",
        "HTTPS://HOST.example:443/a.jpg#top",
        "https://host.example/A.jpg",
        "https://host.example/b.jpg?token=REDACTED",
        "https://host.example/b.jpg?token=REDACTED",
        None,
        None,
        "https://host.example/a.jpg?",
    ]
    ledger = ledger_of(tmp_path, [{"url": url} for url in urls], duplicates={"by": ["url"]})
    assert copies(ledger) == {at: ("duplicate_url", key(0)) for at in (1, 7)}
    assert ledger["rule"][1].as_py() == f"same url as {key(0)}"


def test_near_hashes_are_copies_within_the_distance(tmp_path: Path) -> None:
    hashes = [bits(), bits(0, 20, 40), bits(0, 20, 40, 60), bits(5), None, bits(*range(64))]
    rows = [{"phash": value} for value in hashes]
    ledger = ledger_of(tmp_path, rows, duplicates={"by": ["phash"], **NEAR}, rows_per_shard=2)
    assert copies(ledger) == {at: ("duplicate_phash", key(0)) for at in (1, 3)}
    assert ledger["rule"][1].as_py() == f"phash within 3 of {key(0)}"


def test_chain_of_near_rows_does_not_swallow_its_far_end(tmp_path: Path) -> None:
    rows = [{"phash": bits(*range(0, 3 * step))} for step in range(5)]
    ledger = ledger_of(tmp_path, rows, duplicates={"by": ["phash"], **NEAR}, rows_per_shard=2)
    assert kept(ledger) == [0, 2, 4]
    assert copies(ledger) == {1: ("duplicate_phash", key(0)), 3: ("duplicate_phash", key(2))}


def test_the_best_of_near_rows_is_chosen_first(tmp_path: Path) -> None:
    scores = [1.0, 9.0, 2.0, 3.0, 4.0]
    rows: list[Row] = [
        {"phash": bits(*range(0, 3 * step)), "aesthetic_v2": score}
        for step, score in enumerate(scores)
    ]
    duplicates = {"by": ["phash"], "keep": "aesthetic_v2", **NEAR}
    ledger = ledger_of(tmp_path, rows, duplicates=duplicates)
    assert kept(ledger) == [1, 4]
    assert {at: of for at, (_, of) in copies(ledger).items()} == {0: key(1), 2: key(1), 3: key(4)}


def test_stars_are_those_of_one_row_after_the_other() -> None:
    random = np.random.default_rng(0)
    left, right = random.integers(0, 300, (2, 900))
    order = random.integers(0, 5, 300).astype(np.uint64)
    near: dict[int, set[int]] = {at: set() for at in range(300)}
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        if one != other:
            near[one].add(other)
            near[other].add(one)
    ranked = sorted(range(300), key=lambda at: (order[at], at))
    stays: list[int] = []
    expected = {}
    for at in ranked:
        better = [one for one in stays if one in near[at]]
        if better:
            expected[at] = better[0]
        else:
            stays.append(at)
    stars = settle_stars(left, right, order=order)
    assert dict(zip(stars.dropped.tolist(), stars.stands_for.tolist(), strict=True)) == expected


def test_copy_of_a_copy_names_the_row_that_stays(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"phash": bits(), "sha256": sha256("first")},
        {"phash": bits(1), "sha256": sha256("second")},
        {"phash": bits(1), "sha256": sha256("second")},
    ]
    ledger = ledger_of(tmp_path, rows, duplicates={"by": ["sha256", "phash"]}, rows_per_shard=1)
    assert ledger["rule"][2].as_py() == f"same sha256 as {key(1)}"
    assert copies(ledger)[2] == ("duplicate_bytes", key(0))


def test_near_embeddings_are_copies(tmp_path: Path) -> None:
    rows = [{"embedding": vector(degrees)} for degrees in (0, 90, 8, 170, 95)] + [{}]
    duplicates = {"by": ["embedding"], "embedding_similarity": 0.98}  # 11.5 degrees
    ledger = ledger_of(tmp_path, rows, duplicates=duplicates, rows_per_shard=2)
    assert copies(ledger) == {
        2: ("duplicate_embedding", key(0)),
        4: ("duplicate_embedding", key(1)),
    }
    assert ledger["rule"][2].as_py() == f"embedding within 0.98 of {key(0)}"


def test_near_hashes_may_have_to_agree_with_the_embeddings(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"phash": bits(), "embedding": vector(0)},
        {"phash": bits(1), "embedding": vector(60)},
        {"phash": bits(2), "embedding": vector(5)},
        {"phash": bits(), "embedding": vector(170)},
        {"phash": bits(3)},
    ]
    duplicates = {"by": ["phash"], "phash_needs_similarity": 0.9}
    ledger = ledger_of(tmp_path, rows, duplicates=duplicates, rows_per_shard=2)
    assert kept(ledger) == [0, 1, 3, 4]


def test_embeddings_that_nobody_kept_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"score shard 0: no embedding column; set score\.embeddi"):
        ledger_of(tmp_path, [{}, {}], duplicates={"by": ["embedding"]})


REFERENCE = [
    {"key": "eval-0", "sha256": sha256("eval 0"), "phash": bits(1, 2, 3), "embedding": vector(40)},
    {"key": "eval-1", "sha256": sha256("eval 1"), "phash": bits(*range(9, 40))},
]


def as_file(path: Path) -> str:
    rows = [{**row, "embedding": row.get("embedding") or [0.0, 0.0]} for row in REFERENCE]
    kinds = {"embedding": pa.list_(pa.float16(), 2)}
    columns = {
        name: pa.array(
            [np.float16(r[name]) if name in kinds else r[name] for r in rows], kinds.get(name)
        )
        for name in rows[0]
    }
    pq.write_table(pa.table(columns), path / "eval.parquet")
    return str(path / "eval.parquet")


def as_run(path: Path) -> str:
    lost = [{"reason": "http_gone"}, {"key": "unkept", "phash": bits(), "aesthetic_v2": 0.0}]
    rows = [lost[0], {**REFERENCE[0], "aesthetic_v2": 1}, lost[1], {**REFERENCE[1], "punsafe": 0}]
    store = write_facts(path / "eval", rows, rows_per_shard=3)
    config = select_config(thresholds={"aesthetic_v2": {"min": 0.5, "missing": "keep"}})
    cut(store, config, num_shards=2)
    counts = {"num_shards": 2, "rows_in": 4, "kept": 2, "dropped": {}, "quarantined": []}
    steps = {
        "score": counts | {"fingerprint": "5" * 16},
        "select": counts | {"fingerprint": "c" * 16},
    }
    store.replace(REVISION_FILE, json.dumps({"revision": 1, "steps": steps}).encode())
    return store.root


@pytest.mark.parametrize("make", [as_file, as_run])
def test_rows_that_are_in_a_reference_set_are_dropped(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    path = make(tmp_path)
    rows: list[Row] = [
        {"sha256": sha256("eval 1"), "phash": bits(60, 61, 62, 63, 50, 51), "embedding": vector(0)},
        {"phash": bits(1, 2), "embedding": vector(180)},
        {"phash": bits(40, 41, 42, 43, 44), "embedding": vector(42)},
        {"phash": bits(), "embedding": vector(250)},
        {"phash": bits(2, 3, 5), "embedding": vector(300)},
    ]
    duplicates = {
        "by": ["sha256", "phash"],
        "phash_distance": 2,
        "embedding_similarity": 0.99,
        "references": [{"path": path, "by": ["sha256", "phash", "embedding"]}],
    }
    check_select(select_config(duplicates=duplicates), {})
    ledger = ledger_of(tmp_path / "run", rows, duplicates=duplicates, rows_per_shard=2)
    assert reasons(ledger) == ["in_reference_set"] * 3 + [None, "in_reference_set"]
    assert ledger["rule"].to_pylist() == [
        f"same sha256 as eval-1 of {path}",
        f"phash within 2 of eval-0 of {path}",
        f"embedding within 0.99 of eval-0 of {path}",
        None,
        f"phash within 2 of eval-0 of {path}",
    ]
    assert ledger["duplicate_of"].null_count == 5


def test_reference_set_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sha256": ["0" * 64]}), tmp_path / "a.parquet")
    cases = {
        str(tmp_path / "a.parquet"): r"references\.0 .*a\.parquet: has no phash",
        str(tmp_path / "b.parquet"): r"b\.parquet: cannot be read",
        str(tmp_path): "no run with a complete ledger",
        "relative": "'relative' is a relative path",
    }
    for path, message in cases.items():
        references = [{"path": path, "by": ["sha256", "phash"]}]
        with pytest.raises(ConfigError, match=message):
            check_select(select_config(duplicates={"references": references}), {})


def test_what_lists_and_reference_sets_hold_is_part_of_the_identity(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("one\ntwo\n")
    reference = tmp_path / "eval.parquet"
    pq.write_table(pa.table({"sha256": ["0" * 64]}), reference)
    config = select_config(
        rules=[{"block_words": str(words)}], duplicates={"references": [{"path": str(reference)}]}
    )
    found = [input_digests(config, {})]
    words.write_text("# again\ntwo\none\n")
    assert input_digests(config, {}) == found[0]
    words.write_text("one\n")
    found.append(input_digests(config, {}))
    pq.write_table(pa.table({"sha256": ["1" * 64]}), reference)
    found.append(input_digests(config, {}))
    assert all(one != other for one, other in pairwise(found))
    assert input_digests(select_config(), {}) == {}


def test_every_reason_of_select_is_in_the_closed_list() -> None:
    given = "value_not_allowed condition_not_met ranked_below_best domain_over_cap key_blocked "
    given += "word_blocked in_reference_set duplicate_url duplicate_bytes duplicate_phash "
    assert {*given.split(), "duplicate_embedding"} <= REASONS


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_a_reference_sets_hashes_may_be_any_kind_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    held = {"sha256": [sha256("a"), None, sha256("b")], "phash": [bits(1), bits(*range(9)), None]}
    columns = {name: pa.array(texts).cast(kind) for name, texts in held.items()}
    pq.write_table(pa.table(columns).slice(0, 2), tmp_path / "first.parquet")  # two rows exactly
    pq.write_table(pa.table(columns).slice(2), tmp_path / "rest.parquet")
    sets = [
        {"path": str(tmp_path / name), "by": by}
        for name, by in (("first.parquet", ["sha256", "phash"]), ("rest.parquet", ["sha256"]))
    ]
    rows: list[Row] = [
        {"sha256": sha256("b"), "phash": bits(60, 61)},
        {"sha256": sha256("c"), "phash": bits(*range(9))},
        {"sha256": sha256("d"), "phash": bits(50, 51, 52)},
    ]
    duplicates = {"by": ["sha256", "phash"], "phash_distance": 0, "references": sets}
    ledger = ledger_of(tmp_path / "run", rows, duplicates=duplicates)
    assert reasons(ledger) == ["in_reference_set", "in_reference_set", None]


def test_a_reference_set_whose_hashes_are_no_texts_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sha256": [[1], [2]]}), tmp_path / "held.parquet")
    references = [{"path": str(tmp_path / "held.parquet"), "by": ["sha256"]}]
    with pytest.raises(ConfigError, match=r"held\.parquet: sha256 is list.*, not text"):
        ledger_of(tmp_path / "run", [{}], duplicates={"references": references})


@pytest.mark.parametrize(("column", "value"), [("sha256", "abc"), ("phash", "not a hash 16 ch")])
def test_a_reference_set_with_a_value_that_is_no_hash_is_refused(
    tmp_path: Path, column: str, value: str
) -> None:
    pq.write_table(pa.table({column: [None, value]}), tmp_path / "held.parquet")
    references = [{"path": str(tmp_path / "held.parquet"), "by": [column]}]
    with pytest.raises(ConfigError, match=f"{column} '{value}' in row 1 of the sets; allowed are"):
        ledger_of(tmp_path / "run", [{"phash": "0" * 16}], duplicates={"references": references})
