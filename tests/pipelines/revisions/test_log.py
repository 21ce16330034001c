"""What happens to a run later goes by the commit log, and leaves none that says what is gone."""

import time
from pathlib import Path

import pytest

from jobs.bench.counting import counted_operations
from jobs.bench.made_run import MadeRun
from pipelines.plan import load_plan
from pipelines.revisions.clean import clean_run
from pipelines.revisions.readers import show_revision
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run import commit_log, committed
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.reader import open_run
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from pipelines.verify import Fault, verify_run
from pipelines.verify.files import FileSizes
from pipelines.verify.manifests import Held

STEPS = ("download", "select", "publish", "encode")
SHARDS = 9


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeRun:
    for module in (commit_log, committed):
        monkeypatch.setattr(module, "SHARDS_PER_SEGMENT", 4)
    store = RunStore(str(tmp_path / "run"))
    run = MadeRun(store=store, folder=tmp_path, rows_per_shard=2, steps=STEPS)
    run.make(SHARDS)
    show_revision(store)
    return run


def current(store: RunStore, step: str) -> Committed:
    return Committed(store, step, read_revision(store).steps[step].fingerprint)


def faults(store: RunStore) -> list[str]:
    found = (each for each in verify_run(store, deep=False))
    return [f"{each.where}: {each.found}" for each in found if isinstance(each, Fault)]


def segments(run: Path) -> set[Path]:
    return set(run.glob("_work/manifests/*/*/log-*"))


def test_a_run_with_a_log_verifies_and_opens(made: MadeRun) -> None:
    assert len(segments(Path(made.store.root))) == 2 * len(STEPS)
    assert faults(made.store) == []
    assert sorted(open_run(made.store.root).kept(["key"])["key"].to_pylist()) == made.kept_keys()


def test_verify_finds_what_is_lost_or_changed_of_log_and_manifests(made: MadeRun) -> None:
    select = current(made.store, "select")
    path = select.log.path(1)
    before = made.store.read_bytes(path)
    made.store.replace(path, before[:-1])
    assert [each.partition(": ")[0] for each in faults(made.store)] == [made.store.place(path)]
    made.store.replace(path, before)
    manifest = select.manifest(5)
    content = made.store.read_bytes(manifest.path)
    made.store.delete(manifest.path)
    assert f"{made.store.place(manifest.path)}: missing" in faults(made.store)
    made.store.replace(manifest.path, content.replace(b'"kept": 2', b'"kept": 3'))
    assert faults(made.store) == []  # nobody reads it
    found: list[Fault] = []
    Held(select, FileSizes(made.store), deep=True).load(5, found)
    assert [fault.where for fault in found] == [manifest.path]
    other = Manifest(**{**vars(manifest), "inputs": "of something else"})
    made.store.replace(manifest.path, other.content)
    found.clear()
    Held(select, FileSizes(made.store), deep=True).load(5, found)
    assert [fault.where for fault in found] == [path]


def test_of_a_row_that_is_taken_down_no_segment_is_left_after_a_clean_up(made: MadeRun) -> None:
    run = Path(made.store.root)
    before = segments(run)
    done = take_down(made.store, tombstones_of(keys=made.kept_keys()[:1]), say=lambda line: None)
    assert done.num_rows == 1
    assert len(segments(run) - before) == 2 * len(STEPS)
    clean_run(made.store, grace_s=0, now_s=time.time(), say=lambda line: None)
    assert not segments(run) & before
    assert faults(made.store) == []


def test_a_clean_up_and_a_comparison_of_cuts_open_no_manifest_of_a_whole_segment(
    made: MadeRun,
) -> None:
    made.recut(load_plan(made.store), [1])
    with counted_operations() as counts:
        clean_run(made.store, grace_s=1e6, now_s=time.time(), say=lambda line: None)
    one_by_one = SHARDS % 4 * len(STEPS)
    assert counts["read_bytes"] < one_by_one + 2 * len(STEPS) + 20


def test_a_clean_up_writes_anew_what_a_complete_step_s_log_has_lost(made: MadeRun) -> None:
    lost, torn, *_ = sorted(segments(Path(made.store.root)))
    before = {path: path.read_bytes() for path in (lost, torn)}
    lost.unlink()
    torn.write_bytes(before[torn][:-100])
    assert len(faults(made.store)) == 2
    said: list[str] = []
    clean_run(made.store, grace_s=1e6, now_s=time.time(), say=said.append, dry=True)
    assert torn.read_bytes() != before[torn]
    clean_run(made.store, grace_s=1e6, now_s=time.time(), say=said.append)
    assert {path: path.read_bytes() for path in (lost, torn)} == before
    assert faults(made.store) == []
    assert [line.split()[0] for line in said] == ["would", "would", "writing", "writing"]
