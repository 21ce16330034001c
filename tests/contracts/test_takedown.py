"""What is taken down leaves every file, and nothing brings it back."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import clean, takedown, verify
from jobs.bench.s3_emulator import S3Endpoint
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.record import read_revision, read_run
from pipelines.run.store import RunStore
from pipelines.steps.download.step import DownloadStep
from pipelines.steps.score import ScoreStep
from tests.contracts import cases
from tests.contracts.cases import Killed, ServedList
from tests.contracts.takedown_cases import contents, left_in, write_entries
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow


@pytest.fixture
def run_folder(unharmed_run: Path, tmp_path: Path) -> Path:
    """A copy of the reference run, to be changed."""
    return Path(shutil.copytree(unharmed_run, tmp_path / "run"))


def read_ledger(run: Path) -> pa.Table:
    paths = committed_files(run, "ledger")
    return pa.concat_tables(pq.read_table(path) for path in paths)


def traces(run: Path, keys: set[str]) -> dict[str, bytes]:
    """What must be gone: URL, caption, key, crop and latents of each key, by what it is."""
    found: dict[str, bytes] = {}
    ledger = read_ledger(run)
    for row in ledger.filter(pc.is_in(ledger["key"], pa.array(sorted(keys)))).to_pylist():
        found[f"url of {row['key']}"] = row["url"].encode()
        found[f"key {row['key']}"] = row["key"].encode()
        # Captions of drawn pictures repeat: those that another row has as well are none of its own.
        if ledger["caption"].to_pylist().count(row["caption"]) == 1:
            found[f"caption of {row['key']}"] = row["caption"].encode()
    for name, content in contents(run):
        key, _, kind = name.rpartition(" ")[2].partition(".")
        if key in keys and kind in ("jpg", "latents.npy"):
            found[f"{kind} of {key}"] = content
    return found


def ten_keys(run: Path) -> set[str]:
    """Kept rows, one whose copy was dropped, and rows that have no image."""
    ledger = read_ledger(run)
    named = [key for key in ledger["duplicate_of"].to_pylist() if key is not None]
    kept = ledger.filter(ledger["kept"])["key"].to_pylist()
    failed = ledger.filter(pc.equal(ledger["reason"], "http_gone"))["key"].to_pylist()
    twice = ledger.filter(pc.equal(ledger["reason"], "duplicate_row"))["key"].to_pylist()
    first = [key for key in (*named[:2], *failed, *twice) if key is not None]
    return {*first, *[key for key in kept if key not in first][: 10 - len(first)]}


def test_ten_keys_leave_no_byte_and_growth_does_not_bring_them_back(
    served_list: ServedList, run_folder: Path, tmp_path: Path
) -> None:
    keys = ten_keys(run_folder)
    assert len(keys) == 10
    wanted = traces(run_folder, keys)
    assert {what.split()[0] for what in wanted} >= {"url", "key", "jpg", "latents.npy"}
    assert len(left_in(run_folder, wanted)) > len(wanted), "the search finds what is there"
    before = read_ledger(run_folder)

    list_of_keys = write_entries(tmp_path / "keys.txt", keys)
    assert takedown.main([str(run_folder), "--keys", list_of_keys]) == 0
    assert verify.main([str(run_folder), "--deep"]) == 0
    assert clean.main([str(run_folder), "--grace", "0s"]) == 0
    assert left_in(run_folder, wanted) == []
    assert verify.main([str(run_folder), "--deep"]) == 0

    ledger = read_ledger(run_folder)
    assert ledger.num_rows == before.num_rows
    gone = ledger.filter(pc.equal(ledger["reason"], "taken_down"))
    assert gone.num_rows >= 10
    for name in ("url", "caption", "sha256", "source_licence", "aesthetic_v1", "rule"):
        assert gone[name].null_count == gone.num_rows, name
    other = pc.not_equal(pc.fill_null(ledger["reason"], "-"), "taken_down")
    names = ["key", "kept", "reason", "url", "caption", "aesthetic_v1"]
    assert ledger.filter(other).select(names).equals(before.filter(other).select(names))

    _, said = cases.run(cases.configuration(served_list.path, run_folder))
    assert said == ["nothing to do: every asked step is complete"]


def test_a_takedown_repeated_does_nothing(run_folder: Path, tmp_path: Path) -> None:
    keys = write_entries(tmp_path / "keys.txt", ten_keys(run_folder))
    assert takedown.main([str(run_folder), "--keys", keys]) == 0
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}
    assert takedown.main([str(run_folder), "--keys", keys]) == 0
    after = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize("option", ["urls", "sha256", "domains"])
def test_the_copies_of_a_picture_go_with_it(
    run_folder: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = read_ledger(run_folder)
    copy = next(row for row in ledger.to_pylist() if row["reason"] == "duplicate_bytes")
    entry = {"urls": copy["url"], "sha256": copy["sha256"], "domains": "127.0.0.1"}[option]
    entries = write_entries(tmp_path / "list.txt", {entry})
    assert takedown.main([str(run_folder), f"--{option}", entries]) == 0
    assert verify.main([str(run_folder), "--deep"]) == 0
    gone = read_ledger(run_folder)["reason"].to_pylist().count("taken_down")
    assert gone == (cases.NUM_ROWS if option == "domains" else 2)
    if option == "domains":
        assert read_revision(RunStore(str(run_folder))).steps["encode"].kept == 0


def test_clean_removes_nothing_that_the_run_or_a_recent_revision_refers_to(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cases.data_files(run_folder)
    assert clean.main([str(run_folder), "--grace", "0s"]) == 0
    assert cases.data_files(run_folder) == before
    (run_folder / "_work/images" / "notes.txt").write_text("somebody's own file")
    keys = write_entries(tmp_path / "keys.txt", ten_keys(run_folder))
    assert takedown.main([str(run_folder), "--keys", keys]) == 0
    between = cases.data_files(run_folder)
    assert clean.main([str(run_folder)]) == 0
    assert "\n0 file(s), 0 bytes removed" in capsys.readouterr().out
    assert cases.data_files(run_folder) == between
    assert clean.main([str(run_folder), "--grace", "0s", "--dry-run"]) == 0
    assert cases.data_files(run_folder) == between
    assert clean.main([str(run_folder), "--grace", "0s"]) == 0
    assert len(cases.data_files(run_folder)) < len(between)
    assert (run_folder / "_work/images" / "notes.txt").exists()
    assert verify.main([str(run_folder), "--deep"]) == 0


def test_it_works_on_an_object_store(
    unharmed_run: Path, tmp_path: Path, s3_endpoint: S3Endpoint
) -> None:
    store = RunStore(f"s3://{s3_endpoint.bucket}/taken", s3_endpoint.storage_options)
    store.filesystem.put(f"{unharmed_run}/", store.absolute(""), recursive=True)
    keys = ten_keys(unharmed_run)
    wanted = traces(unharmed_run, keys)
    list_of_keys = write_entries(tmp_path / "keys.txt", keys)
    assert takedown.main([store.root, "--keys", list_of_keys]) == 0
    assert clean.main([store.root]) == 0
    assert clean.main([store.root, "--grace", "0s"]) == 0
    assert verify.main([store.root, "--deep"]) == 0
    copy = tmp_path / "copy"
    store.filesystem.get(store.absolute(""), str(copy), recursive=True)
    assert (copy / "run.json").exists()
    assert left_in(copy, wanted) == []


def test_latents_in_parquet_of_several_shards_lose_their_rows(
    served_list: ServedList, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = {"encode__format": "parquet", "encode__download_shards_per_file": 4}
    config = cases.configuration(served_list.path, run, **options)
    cases.run(config)
    keys = ten_keys(run)
    wanted = traces(run, keys)
    list_of_keys = write_entries(tmp_path / "keys.txt", keys)
    assert takedown.main([str(run), "--keys", list_of_keys]) == 0
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert left_in(run, wanted) == []
    assert verify.main([str(run), "--deep"]) == 0
    # The shards are those that encode would make of what is left: none is encoded again.
    rule = f"[{cases.SHIPPED_RULES}, {{column: original_width, min: 1}}]"
    cut = cases.configuration(served_list.path, run, **options, select__rules=rule)
    _, said = cases.run(cut, steps=("select", "encode"))
    assert "encode: 2 of 2 shards are as they were" in said


def test_rows_of_a_shard_that_download_or_score_gave_up_leave_it(
    served_list: ServedList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, url = tmp_path / "run", f"{served_list.server.url}/013.png"
    fetched = f"{served_list.server.url}/023.png"
    download, score = DownloadStep._run, ScoreStep.commit

    def fail_one(step: DownloadStep, shard_id: int, folder: Path) -> Manifest:
        if shard_id == 1:
            raise ShardError(f"a disk that was full at {url}")
        return download(step, shard_id, folder)

    def fail_another(step: ScoreStep, shard_id: int, *rest: Any) -> Manifest:
        if shard_id == 2:
            raise ShardError(f"a score that failed at {fetched}")
        return score(step, shard_id, *rest)

    monkeypatch.setattr(DownloadStep, "_run", fail_one)
    monkeypatch.setattr(ScoreStep, "commit", fail_another)
    options = {"engine__max_quarantined_shards": 1, "engine__shard_tries": 1}
    cases.run(cases.configuration(served_list.path, run, **options))
    wanted = {"url": url.encode(), "another": fetched.encode()}
    assert {what.split()[0] for what in left_in(run, wanted)} == {"url", "another"}
    urls = write_entries(tmp_path / "urls.txt", {url, fetched})
    assert takedown.main([str(run), "--urls", urls, "--must-match"]) == 0
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert left_in(run, wanted) == []
    assert verify.main([str(run), "--deep"]) == 0


def test_a_takedown_while_a_revision_is_half_done_leaves_readers_nothing_of_it(
    served_list: ServedList,
    tmp_path: Path,
    kill_at_write: Callable[[int | None], Counter[str]],
) -> None:
    table = pq.read_table(served_list.path)
    path, run = tmp_path / "list.parquet", tmp_path / "run"
    pq.write_table(table.slice(0, 15), path)
    config = cases.configuration(path, run)
    cases.run(config)
    pq.write_table(table.slice(0, 25), path)
    kill_at_write(14)
    with pytest.raises(Killed):
        cases.run(config, grow=True)
    kill_at_write(None)
    (run / "lease.json").unlink(missing_ok=True)
    store = RunStore(str(run))
    recorded = read_run(store)["steps"]["download"]["fingerprint"]
    assert recorded != read_revision(store).steps["download"].fingerprint, "half done"
    ledger = pq.ParquetDataset(sorted((run / "ledger").glob("0*.parquet"))).read()
    keys = set(ledger.filter(ledger["kept"])["key"].to_pylist()[:3])
    wanted = {key: key.encode() for key in keys}
    list_of_keys = write_entries(tmp_path / "keys.txt", keys)
    assert takedown.main([str(run), "--keys", list_of_keys]) == 0
    assert clean.main([str(run), "--grace", "0s"]) == 0
    assert left_in(run, wanted) == []
    assert verify.main([str(run)]) == 0
    cases.run(config, grow=True)
    assert left_in(run, wanted) == []
    assert read_ledger(run).num_rows == 25
    assert verify.main([str(run), "--deep"]) == 0
