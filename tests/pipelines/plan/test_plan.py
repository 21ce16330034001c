"""Plans: every row in exactly one shard, duplicates settled in plan order, changes refused."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.plan import (
    PlanConfig,
    PlanError,
    check_plan_inputs,
    duplicates,
    load_plan,
    make_plan,
    read_settled,
)
from pipelines.rows import keys
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig

ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "", None]), st.sampled_from(["x", "y", None])),
    min_size=1,
    max_size=30,
)


def _write(path: Path, rows: list[tuple[str | None, str | None]]) -> None:
    columns = {
        "url": pa.array([url for url, _ in rows], pa.string()),
        "caption": pa.array([caption for _, caption in rows], pa.string()),
    }
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=7)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ROWS, second=ROWS, rows_per_shard=st.integers(1, 9))
def test_first_of_equal_rows_wins_in_plan_order(
    plan_path: Any,
    tmp_path: Path,
    first: list[tuple[str | None, str | None]],
    second: list[tuple[str | None, str | None]],
    rows_per_shard: int,
) -> None:
    _write(tmp_path / "in" / "0.parquet", first)
    _write(tmp_path / "in" / "1.parquet", second)
    planned = plan_path(tmp_path / "in", rows_per_shard=rows_per_shard)
    seen: set[tuple[str | None, str | None]] = set()
    expected = []
    for row in first + second:
        missing = not row[0]
        expected.append("url_missing" if missing else "duplicate_row" if row in seen else None)
        seen.add(row)
    rows = planned.rows()
    assert rows["reason"].to_pylist() == expected
    assert planned.plan.num_rows == rows.num_rows == len(expected)
    assert planned.plan.settled["duplicate_row"] == expected.count("duplicate_row")
    kept = rows.filter(pc.is_null(rows["reason"]))["key"].to_pylist()
    assert len(kept) == len(set(kept))


def test_shards_never_cross_files_and_come_in_sorted_order(plan_path: Any, tmp_path: Path) -> None:
    _write(tmp_path / "in" / "b.parquet", [(f"b{n}", None) for n in range(3)])
    _write(tmp_path / "in" / "a.parquet", [(f"a{n}", None) for n in range(5)])
    plan = plan_path(tmp_path / "in", rows_per_shard=2).plan
    found = [plan.shard(shard) for shard in range(plan.num_shards)]
    assert [(r.shard_id, r.file, r.start_row, r.num_rows) for r in found] == [
        (0, "a.parquet", 0, 2),
        (1, "a.parquet", 2, 2),
        (2, "a.parquet", 4, 1),
        (3, "b.parquet", 0, 2),
        (4, "b.parquet", 2, 1),
    ]


@pytest.mark.parametrize("hash_bits", [0, 2])
@pytest.mark.parametrize("buffered_rows", [3, 1 << 18])
def test_other_text_with_the_same_key_is_a_collision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_bits: int, buffered_rows: int
) -> None:
    monkeypatch.setattr(duplicates, "BUFFERED_ROWS", buffered_rows)
    urls = [f"u{number % 9}" for number in range(40)]
    _write(tmp_path / "in" / "0.parquet", [(url, None) for url in urls])

    def short_hash(text: bytes) -> bytes:
        return bytes([sum(text) % (1 << hash_bits) << 6]) + bytes(7)

    source = Source(SourceConfig(path=str(tmp_path / "in")))
    store = RunStore(str(tmp_path / "run"))
    monkeypatch.setattr(keys, "blake2b_64", short_hash)
    plan = make_plan(source, PlanConfig(rows_per_shard=4), store=store)
    winner: dict[int, str] = {}
    expected = []
    for url in urls:
        first = winner.setdefault(sum(url.encode()) % (1 << hash_bits), url)
        expected.append("key_collision" if first != url else "duplicate_row")
    for url in winner.values():
        expected[urls.index(url)] = ""
    found = [""] * len(urls)
    for shard in range(plan.num_shards):
        settled = read_settled(plan, store, shard)
        if settled is not None:
            for row in settled.to_pylist():
                found[4 * shard + row["row"]] = row["reason"]
    assert found == expected
    assert plan.settled == {
        "duplicate_row": expected.count("duplicate_row"),
        "key_collision": expected.count("key_collision"),
    }


def test_spilling_to_disk_changes_nothing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{number}", None) for number in rng.integers(0, 3000, 5000)]
    _write(tmp_path / "in" / "0.parquet", rows)
    source = Source(SourceConfig(path=str(tmp_path / "in")))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    runs = []
    for buffered_rows in (1 << 18, 64):
        monkeypatch.setattr(duplicates, "BUFFERED_ROWS", buffered_rows)
        run = tmp_path / f"run{buffered_rows}"
        make_plan(source, PlanConfig(rows_per_shard=100), store=RunStore(str(run)), scratch=scratch)
        runs.append(_files(run))
        assert not list(scratch.iterdir())
    assert runs[0] == runs[1]


def test_plan_survives_storage(plan_path: Any, tmp_path: Path) -> None:
    _write(tmp_path / "in" / "0.parquet", [("a", "x"), ("a", "x"), ("b", None)])
    planned = plan_path(tmp_path / "in", rows_per_shard=2)
    loaded = load_plan(planned.store)
    assert loaded == planned.plan
    assert loaded.shards.equals(planned.plan.shards)
    assert loaded.num_settled(0) == 1
    assert loaded.num_settled(1) == 0
    stored = set(_files(tmp_path / "run"))
    names = ("plan.json", "shards.parquet", "settled/000000.parquet")
    assert stored == {f"_work/plan/{name}" for name in names}


def test_missing_or_damaged_plan_is_an_error(plan_path: Any, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan yet: plan/plan\.json is missing"):
        load_plan(RunStore(str(tmp_path / "none")))
    _write(tmp_path / "in" / "0.parquet", [("a", "x"), ("a", "x")])
    planned = plan_path(tmp_path / "in")
    settled = tmp_path / "run" / "_work/plan" / "settled" / "000000.parquet"
    settled.write_bytes(settled.read_bytes()[:-20])
    with pytest.raises(PlanError, match=r"settled/000000\.parquet: missing or damaged"):
        planned.shard(0)
    (tmp_path / "run" / "_work/plan" / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match="not a plan"):
        load_plan(planned.store)


def test_fingerprint_follows_what_the_rows_depend_on(tmp_path: Path) -> None:
    def fingerprint(name: str, rows: list[Any], **options: Any) -> str:
        _write(tmp_path / name / "0.parquet", rows)
        config = PlanConfig(rows_per_shard=options.pop("rows_per_shard", 10))
        source = Source(SourceConfig(path=str(tmp_path / name), **options))
        return make_plan(source, config, store=RunStore(str(tmp_path / "run"))).fingerprint

    first = fingerprint("a", [("a", "x")])
    assert fingerprint("b", [("a", "x")]) == first  # another folder, the same list
    others = {
        fingerprint("c", [("a", "y")]),
        fingerprint("d", [("a", "x")], rows_per_shard=9),
        fingerprint("e", [("a", "x")], caption_column=""),
        first,
    }
    assert len(others) == 4


def test_unchanged_source_passes_and_is_not_read_again(plan_path: Any, tmp_path: Path) -> None:
    path = tmp_path / "in" / "0.parquet"
    _write(path, [("a", "x")])
    planned = plan_path(tmp_path / "in")
    check_plan_inputs(planned.plan, Source(planned.source.config))
    os.utime(path, (1, 1))  # touched: another token, so its bytes are compared
    check_plan_inputs(planned.plan, Source(planned.source.config))


def test_every_changed_gone_and_new_file_is_named(plan_path: Any, tmp_path: Path) -> None:
    for name in "abcd":
        _write(tmp_path / "in" / f"{name}.parquet", [(name, "x")])
    planned = plan_path(tmp_path / "in")
    folder = tmp_path / "in"
    (folder / "a.parquet").unlink()
    content = bytearray((folder / "b.parquet").read_bytes())
    content[10] ^= 1
    (folder / "b.parquet").write_bytes(content)
    os.utime(folder / "b.parquet", (1, 1))
    _write(folder / "c.parquet", [("c", "x" * 1000)] * 3)
    _write(folder / "e.parquet", [("e", "x")])
    with pytest.raises(PlanError) as error:
        check_plan_inputs(planned.plan, Source(planned.source.config))
    message = str(error.value)
    assert "4 file(s)" in message
    assert "a.parquet: planned, and gone now" in message
    assert "b.parquet: sha256 " in message
    assert "c.parquet: " in message
    assert " bytes when planned, " in message
    assert "e.parquet: not in the plan" in message
    assert "give another `output`" in message
    assert "d.parquet" not in message


def test_changed_reading_of_the_same_files_is_refused(plan_path: Any, tmp_path: Path) -> None:
    _write(tmp_path / "in" / "0.parquet", [("a", "x")])
    planned = plan_path(tmp_path / "in")
    config = planned.source.config.model_copy(update={"caption_column": "", "url_column": "url"})
    with pytest.raises(PlanError) as error:
        check_plan_inputs(planned.plan, Source(config))
    assert "2 option(s)" in str(error.value)
    assert "source.caption_column: None when planned, '' now" in str(error.value)


def test_changed_tar_of_an_img2dataset_folder_is_refused(plan_path: Any, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = {"url": ["u"], "caption": ["c"], "key": ["0"], "status": ["success"]}
    pq.write_table(pa.table(rows), folder / "0.parquet")
    (folder / "0.tar").write_bytes(bytes(1024))
    planned = plan_path(folder)
    check_plan_inputs(planned.plan, Source(planned.source.config))
    (folder / "0.tar").write_bytes(bytes(2048))
    with pytest.raises(PlanError, match=r"0\.parquet: sha256"):
        check_plan_inputs(planned.plan, Source(planned.source.config))


def test_nothing_secret_is_stored(plan_path: Any, tmp_path: Path) -> None:
    secret = "https://user:s3cr3t@a.example/i.jpg?X-Amz-Signature=s3cr3t"
    _write(tmp_path / "in" / "0.parquet", [(secret, secret), (secret, secret)])
    plan_path(tmp_path / "in", storage_options={"auto_mkdir": True})
    for name, content in _files(tmp_path / "run").items():
        assert b"s3cr3t" not in content, name
        assert b"auto_mkdir" not in content, name


def test_content_hash_column_is_found_or_refused(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption,MD5\nu,c,00ff\n")
    planned = plan_path(tmp_path / "a.csv", content_hash="MD5")
    assert planned.plan.content_hash == "source_md5"
    with pytest.raises(PlanError, match="content_hash is 'sha', but the columns are: MD5"):
        plan_path(tmp_path / "a.csv", content_hash="sha")


@pytest.mark.parametrize("rows_per_shard", [0, 1_000_001, "10"])
def test_shard_size_out_of_bounds_is_refused(rows_per_shard: Any) -> None:
    with pytest.raises(ValidationError, match="rows_per_shard"):
        PlanConfig(rows_per_shard=rows_per_shard)


def test_plan_into_an_object_store_reads_back() -> None:
    store = RunStore("memory://run")
    store.filesystem.pipe("/list/0.txt", b"http://a\nhttp://b\nhttp://a\n")
    source = Source(SourceConfig(path="memory://list/0.txt"))
    plan = make_plan(source, PlanConfig(rows_per_shard=2), store=store)
    assert load_plan(store) == plan
    check_plan_inputs(plan, source)
    store.filesystem.pipe("/list/0.txt", b"http://a\nhttp://b\nhttp://c\n")
    with pytest.raises(PlanError, match=r"0\.txt: sha256"):
        check_plan_inputs(plan, source)


MEASURE = """
import sys
from pipelines.plan import PlanConfig, duplicates, make_plan
from pipelines.sources import Source, SourceConfig
from pipelines.run.store import RunStore
source = Source(SourceConfig(path=sys.argv[1]))
duplicates.BUFFERED_ROWS = 8192
make_plan(source, PlanConfig(rows_per_shard=1000), store=RunStore(sys.argv[2]))
with open("/proc/self/status") as status:  # ru_maxrss would count the parent's memory
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_follow_the_number_of_rows(tmp_path: Path) -> None:
    peaks = []
    for num_rows in (20_000, 100_000):
        path = tmp_path / f"{num_rows}.parquet"
        urls = [f"https://a.example/{number:09d}.jpg" for number in range(num_rows)]
        pq.write_table(pa.table({"url": urls, "caption": urls}), path, row_group_size=5_000)
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / f"run{num_rows}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0], peaks
