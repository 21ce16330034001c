"""Select over a run: every row in the ledger, cuts as new fingerprints, quarantined shards."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.plan import PlanConfig, load_plan, make_plan
from pipelines.run.committed import Committed
from pipelines.run.manifest import ShardError, read_manifest
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.sources import Source
from pipelines.steps.select import Select, SelectConfig, Threshold, facts
from tests.pipelines.steps.select.cases import Row, cut, select_config, sha256, write_facts
from tests.pipelines.synthetic_run import (
    NUM_ROWS,
    ROWS_PER_SHARD,
    fingerprint,
    quarantine,
    select,
    write_download,
    write_list,
    write_score,
)

OFF = SelectConfig(duplicates="off")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


@pytest.fixture
def source(store: RunStore, tmp_path: Path) -> Source:
    source = write_list(tmp_path)
    make_plan(source, PlanConfig(rows_per_shard=ROWS_PER_SHARD), store=store)
    return source


@pytest.fixture
def scored(store: RunStore, source: Source, tmp_path: Path) -> RunStore:
    for shard_id in range(3):
        write_download(store, source, shard_id, scratch=tmp_path)
        write_score(store, shard_id, scratch=tmp_path)
    return store


def run(step: Select) -> pa.Table:
    """Run it; the whole ledger."""
    step.run(lambda manifest: None)
    tables = []
    for shard_id in range(step.num_shards):
        manifest = read_manifest(step.store, "select", step.fingerprint, shard_id)
        assert manifest is not None
        [entry] = manifest.files
        table = read_table(step.store, entry.path)
        assert manifest.kept == sum(table["kept"].to_pylist())
        assert manifest.dropped == Counter(table["reason"].drop_null().to_pylist())
        tables.append(table)
    return pa.concat_tables(tables)


def reasons(ledger: pa.Table) -> dict[str, int]:
    return dict(Counter(ledger["reason"].drop_null().to_pylist()))


def test_every_row_of_the_plan_is_in_the_ledger(scored: RunStore, source: Source) -> None:
    ledger = run(select(scored, source))
    assert ledger.num_rows == NUM_ROWS
    assert ledger["row"].to_pylist() == [n % ROWS_PER_SHARD for n in range(NUM_ROWS)]
    assert reasons(ledger) == {
        "url_missing": 1,
        "duplicate_row": 1,
        "http_not_found": 2,
        "aesthetic_v2_below_min": 9,
    }


def test_only_rows_that_passed_can_be_the_first_of_copies(scored: RunStore, source: Source) -> None:
    everything = run(select(scored, source, config=SelectConfig()))
    [copy] = everything.filter(pc.equal(everything["reason"], "duplicate_bytes")).to_pylist()
    first = everything["key"][1].as_py()
    assert copy["row"] == 2
    assert copy["rule"] == f"same sha256 as {first}"
    # Row 1, the first copy, now fails a threshold: row 2 is no copy of anything that passed.
    config = SelectConfig(thresholds={"aesthetic_v2": Threshold(min=2)})
    cut = run(replace(select(scored, source, config=config), fingerprint="cut"))
    assert "duplicate_bytes" not in reasons(cut)
    assert cut["kept"][2].as_py()


def test_duplicates_can_be_left_alone(scored: RunStore, source: Source) -> None:
    ledger = run(select(scored, source, config=OFF))
    assert "duplicate_bytes" not in reasons(ledger)


def test_another_cut_is_another_ledger_and_the_first_stays(
    scored: RunStore, source: Source
) -> None:
    first = run(select(scored, source))
    config = SelectConfig(thresholds={"aesthetic_v2": Threshold(min=6)})
    second = run(replace(select(scored, source, config=config), fingerprint="cut"))
    assert sum(second["kept"].to_pylist()) < sum(first["kept"].to_pylist())
    assert run(select(scored, source)).equals(first)
    facts = [name for name in first.column_names if name not in ("kept", "reason", "rule")]
    assert second.select(facts).equals(first.select(facts))


def test_select_resumes_at_the_shard_that_is_missing(scored: RunStore, source: Source) -> None:
    step = select(scored, source, config=SelectConfig())
    whole = run(step)
    commits: list[int] = []
    step.run(lambda manifest: commits.append(manifest.shard_id))
    assert commits == []
    scored.delete(f"manifests/select/{step.fingerprint}/000001.json")
    step.run(lambda manifest: commits.append(manifest.shard_id))
    assert commits == [1]
    assert run(step).equals(whole)


def test_rows_of_a_shard_whose_download_was_quarantined_are_in_the_ledger(
    store: RunStore, source: Source, tmp_path: Path
) -> None:
    for shard_id in (0, 2):
        write_download(store, source, shard_id, scratch=tmp_path)
        write_score(store, shard_id, scratch=tmp_path)
    quarantine(store, "download", 1, rows_in=ROWS_PER_SHARD)
    quarantine(store, "score", 1, rows_in=0)
    ledger = run(select(store, source, config=OFF))
    lost = ledger.slice(ROWS_PER_SHARD, ROWS_PER_SHARD)
    assert set(lost["reason"].to_pylist()) == {"shard_quarantined"}
    assert lost["shard_id"].to_pylist() == [1] * ROWS_PER_SHARD
    assert lost["url"][0].as_py() == "https://REDACTED@host.example/8.jpg"
    assert lost["source_width"].to_pylist() == [108 + n for n in range(ROWS_PER_SHARD)]
    assert lost["status"].null_count == ROWS_PER_SHARD


def test_images_of_a_shard_whose_score_was_quarantined_are_dropped_and_failures_keep_their_reason(
    store: RunStore, source: Source, tmp_path: Path
) -> None:
    for shard_id in range(3):
        write_download(store, source, shard_id, scratch=tmp_path)
    for shard_id in (0, 1):
        write_score(store, shard_id, scratch=tmp_path)
    download = read_manifest(store, "download", fingerprint("download"), 2)
    assert download is not None
    quarantine(store, "score", 2, rows_in=download.kept)
    ledger = run(select(store, source, config=OFF))
    lost = ledger.slice(2 * ROWS_PER_SHARD)
    assert reasons(lost) == {"shard_quarantined": download.kept, "duplicate_row": 1}


def test_run_without_scores_selects_on_the_facts(
    store: RunStore, source: Source, tmp_path: Path
) -> None:
    for shard_id in range(3):
        write_download(store, source, shard_id, scratch=tmp_path)
    config = SelectConfig(thresholds={"source_width": Threshold(min=110)}, duplicates="off")
    ledger = run(replace(select(store, source, config=config), score=None))
    assert reasons(ledger)["value_below_min"] == 8
    assert ledger["aesthetic_v2"].null_count == NUM_ROWS


def test_select_before_its_parents_says_which_shard_is_missing(
    store: RunStore, source: Source, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match="download shard 0 is not committed"):
        run(select(store, source))
    for shard_id in range(load_plan(store).num_shards):
        write_download(store, source, shard_id, scratch=tmp_path)
    with pytest.raises(ShardError, match="score shard 0 is not committed"):
        run(select(store, source))


def test_any_number_of_threads_writes_the_same_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Row] = [
        {
            "source_n": str(n) if n % 7 else "none",
            "aesthetic_v2": float(n * 37 % 11),
            "url": f"https://host-{n % 5}.example/{n % 61}.jpg",
            "sha256": sha256(str(n % 50)),
        }
        for n in range(120)
    ]
    config = select_config(
        rules=[
            {"sql": "source_n::int % 9 > 0"},
            {"best_of": {"by": "aesthetic_v2", "fraction": 0.9}},
            {"domain_cap": {"num_images": 15, "by": "aesthetic_v2"}},
        ],
        duplicates={"by": ["url", "sha256"], "keep": "aesthetic_v2"},
    )
    store = write_facts(tmp_path / "run", rows, rows_per_shard=3)
    written = []
    for cores in (1, 4):
        monkeypatch.setattr(facts, "NUM_CORES", cores)
        ledger = cut(store, config, num_shards=40, fingerprint=f"{cores}" * 16)
        committed = Committed(store, "select", f"{cores}" * 16)
        written.append([(m.files, m.dropped, m.gives) for m in committed.manifests(40)])
    assert written[0] == written[1]
    assert len(set(ledger["reason"].to_pylist())) == 6
