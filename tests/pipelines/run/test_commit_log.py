"""The commit log: a few files stand for the manifests, and never for more than these say."""

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.bench.counting import counted_operations
from pipelines.run import commit_log, committed
from pipelines.run.commit_log import segment_of
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest, ShardError, create_manifest
from pipelines.run.record import StepIdentity, complete_step, read_revision
from pipelines.run.store import RunStore

STEP = StepIdentity(step="score", options={})
SHARDS = 10


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (commit_log, committed):
        monkeypatch.setattr(module, "SHARDS_PER_SEGMENT", 4)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def manifest_of(shard_id: int, **told: object) -> Manifest:
    known = {"files": (), "rows_in": shard_id, "kept": shard_id} | told
    return Manifest(step="score", fingerprint=STEP.fingerprint, shard_id=shard_id, **known)  # type: ignore[arg-type]


def made_in(store: RunStore) -> Committed:
    return Committed(store, "score", STEP.fingerprint)


def commit(store: RunStore, shards: range) -> Committed:
    """As a job does, which is told of every commit."""
    made = made_in(store)
    for shard_id in shards:
        made.log.add(create_manifest(store, manifest_of(shard_id)))
    return made


def complete(store: RunStore, num_shards: int = SHARDS) -> None:
    complete_step(store, STEP, num_shards=num_shards, folders=(), later=())


def segments(store: RunStore) -> dict[str, bytes]:
    folder = made_in(store).folder
    names = [name for name in store.list_files(folder) if segment_of(name) is not None]
    return {name: store.read_bytes(f"{folder}/{name}") for name in names}


def reads(store: RunStore, num_shards: int = SHARDS) -> Counter[str]:
    with counted_operations() as counts:
        found = list(made_in(store).manifests(num_shards))
    assert found == [manifest_of(shard_id) for shard_id in range(num_shards)]
    return counts


def test_a_whole_segment_is_read_in_place_of_its_manifests(store: RunStore) -> None:
    commit(store, range(SHARDS))
    assert list(segments(store)) == ["log-000000.parquet", "log-000001.parquet"]
    assert reads(store)["read_bytes"] == 3 + 2  # segments asked for, the manifests of 8 and 9


def test_segments_are_the_same_bytes_whenever_and_by_whomever_they_are_written(
    store: RunStore, tmp_path: Path
) -> None:
    commit(store, range(SHARDS))
    complete(store)
    other = RunStore(str(tmp_path / "other"))
    commit(other, range(7, -1, -2))  # killed, and gone on with
    commit(other, range(0, 8, 2))
    commit(other, range(8, SHARDS))
    assert not segments(other)
    complete(other)
    assert segments(other) == segments(store)
    digests = [read_revision(each).steps["score"].digests for each in (store, other)]
    assert digests[0] == digests[1]
    assert {f"{made_in(store).folder}/{name}" for name in segments(store)} <= digests[0].keys()


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really", None], ids=["empty", "torn", "lost"])
def test_a_damaged_or_lost_segment_costs_reads_and_is_written_again(
    store: RunStore, damage: bytes | None
) -> None:
    commit(store, range(SHARDS))
    before, path = segments(store), made_in(store).log.path(0)
    if damage is None:
        store.delete(path)
    else:
        store.replace(path, damage)
    assert reads(store)["read_bytes"] >= 4 + 1 + 2
    complete(store)
    assert segments(store) == before


def test_a_shard_that_is_made_again_is_not_the_one_of_the_log(store: RunStore) -> None:
    commit(store, range(SHARDS))
    store.delete(manifest_of(2).path)  # damaged, say, and taken away by hand
    made = made_in(store)
    assert made.begin() == set(range(SHARDS)) - {2}
    create_manifest(store, again := manifest_of(2, rows_in=7, kept=7))
    complete(store)
    assert made_in(store).manifest(2) == again
    assert len(segments(store)) == 2


def test_a_segment_of_another_step_or_with_a_changed_manifest_is_not_believed(
    store: RunStore,
) -> None:
    made = commit(store, range(4))
    changed = {n: replace(manifest_of(n), rows_in=99, kept=99) for n in range(4)}
    content = made.log.segment(0)[1]
    held = [replace(changed[n], fingerprint="other") for n in range(4)]
    made.log.write(0, held)
    assert [m.rows_in for m in made_in(store).manifests(4)] == [0, 1, 2, 3]
    made.log.write(0, [manifest_of(n) for n in range(4)])
    table = commit_log.read_parquet(commit_log.io.BytesIO(store.read_bytes(made.log.path(0))))
    rows = table["manifest"].to_pylist()
    rows[1] = content.replace(b'"rows_in": 1', b'"rows_in": 2')
    assert rows[1] != content
    bad = table.set_column(1, "manifest", commit_log.pa.array(rows, commit_log.pa.binary()))
    store.replace(made.log.path(0), commit_log.table_bytes(bad))
    assert made_in(store).manifest(1).rows_in == 1


def test_a_run_made_before_there_was_a_log_is_read_and_gets_one_when_a_step_completes(
    store: RunStore,
) -> None:
    for shard_id in range(SHARDS):
        create_manifest(store, manifest_of(shard_id))
    assert reads(store)["read_bytes"] >= SHARDS
    complete(store)
    assert len(segments(store)) == 2


def test_a_growth_adds_to_the_log_and_changes_nothing_of_it(store: RunStore) -> None:
    commit(store, range(SHARDS))
    complete(store)
    before = segments(store)
    commit(store, range(SHARDS, 13))
    complete(store, 13)
    assert len(segments(store)) == 3
    assert before.items() <= segments(store).items()
    assert reads(store, 13)["read_bytes"] == 4 + 1


def test_a_worker_is_given_what_its_job_has_committed_of_the_last_thousand(
    store: RunStore,
) -> None:
    made = commit(store, range(6))
    copy = pickle.loads(pickle.dumps(made))
    assert copy == made
    with counted_operations() as counts:
        assert [copy.manifest(n) for n in (4, 5)] == [manifest_of(n) for n in (4, 5)]
    assert not counts
    assert list(copy.manifests(6)) == list(made.manifests(6))


def test_iteration_of_a_missing_shard_names_it(store: RunStore) -> None:
    made = commit(store, range(3))
    found: Iterator[Manifest] = made.manifests(4)
    with pytest.raises(ShardError, match=r"000003\.json: missing"):
        list(found)
