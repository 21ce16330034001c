"""run.json and revision.json: what may change, what is refused, what a new revision drops."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.run.manifest import FileEntry, Manifest, ShardError, create_manifest
from pipelines.run.option_changes import describe_changes
from pipelines.run.record import (
    Revision,
    RunMismatchError,
    StepIdentity,
    complete_step,
    read_revision,
    read_run,
)
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.steps.kinds import later_steps

STEPS = ("download", "score", "select", "encode")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def identities(**options: dict[str, object]) -> dict[str, StepIdentity]:
    """The four steps, each the child of the one before, with these options."""
    made: dict[str, StepIdentity] = {}
    parents: tuple[str, ...] = ()
    for step in STEPS:
        made[step] = StepIdentity(step=step, options=options.get(step, {}), parents=parents)
        parents = (made[step].fingerprint,)
    return made


def commit(store: RunStore, identity: StepIdentity, *, num_shards: int = 2) -> None:
    for shard_id in range(num_shards):
        path = f"{identity.step}/{shard_id:06d}-{identity.fingerprint}.tar"
        create_manifest(
            store,
            Manifest(
                step=identity.step,
                fingerprint=identity.fingerprint,
                shard_id=shard_id,
                files=(FileEntry(path=path, sha256="ab" * 32, num_bytes=7, num_rows=3),),
                rows_in=5,
                kept=3,
                dropped={"http_gone": 1 + shard_id, "dns_failed": 1 - shard_id}
                if shard_id == 0
                else {"http_gone": 2},
            ),
        )


def complete(store: RunStore, identity: StepIdentity) -> None:
    commit(store, identity)
    complete_step(
        store,
        identity,
        num_shards=2,
        folders=[identity.step],
        later=later_steps(identity.step),
    )


def record(
    store: RunStore, steps: dict[str, StepIdentity], *, recut: frozenset[str] = frozenset()
) -> None:
    check_or_record(store, steps.values(), job={"job": "curate"}, recut=recut)


# Fingerprints --------------------------------------------------------------------------------


def test_fingerprint_changes_with_step_options_and_parents_only() -> None:
    one = StepIdentity(step="score", options={"a": 1, "b": {"c": 2}}, parents=("p",))
    same = StepIdentity(step="score", options={"b": {"c": 2}, "a": 1}, parents=("p",))
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 16
    others = [
        StepIdentity(step="encode", options=one.options, parents=("p",)),
        StepIdentity(step="score", options={"a": 1, "b": {"c": 3}}, parents=("p",)),
        StepIdentity(step="score", options=one.options, parents=("q",)),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4


# run.json ------------------------------------------------------------------------------------


def test_new_run_is_recorded_and_the_same_options_resume_it(store: RunStore) -> None:
    assert read_run(store) == {}
    steps = identities(download={"size": 512})
    record(store, steps)
    before = store.read_bytes("run.json")
    record(store, steps)
    assert store.read_bytes("run.json") == before
    tree = read_run(store)
    assert tree["job"] == "curate"
    assert tree["steps"]["download"] == {
        "fingerprint": steps["download"].fingerprint,
        "options": {"size": 512},
    }


def test_changed_option_is_refused_and_named(store: RunStore) -> None:
    record(store, identities(download={"image": {"size": 512}, "retries": 2}))
    before = store.read_bytes("run.json")
    changed = identities(download={"image": {"size": 256}, "proxy": "none"}, select={"min": 3})
    with pytest.raises(RunMismatchError) as caught:
        record(store, changed)
    lines = str(caught.value).splitlines()
    assert lines[1:5] == [
        "  - download.image.size: was 512, is now 256",
        '  - download.proxy: was not set, is now "none"',
        "  - download.retries: was 2, is now not set",
        "  - select.min: was not set, is now 3",
    ]
    assert "--steps select,encode" in lines[-1]
    assert store.read_bytes("run.json") == before


def test_recut_is_allowed_for_the_steps_asked_for_by_name(store: RunStore) -> None:
    record(store, identities(select={"min": 3}))
    changed = identities(select={"min": 5})
    with pytest.raises(RunMismatchError, match=r"select\.min: was 3, is now 5"):
        record(store, changed)
    record(store, changed, recut=frozenset({"select"}))
    assert read_run(store)["steps"]["select"]["options"] == {"min": 5}


def test_recut_of_select_does_not_let_another_change_through(store: RunStore) -> None:
    record(store, identities(download={"size": 512}, select={"min": 3}))
    changed = identities(download={"size": 256}, select={"min": 5})
    with pytest.raises(RunMismatchError) as caught:
        record(store, changed, recut=frozenset({"select"}))
    assert "download.size" in str(caught.value)
    assert "select.min" not in str(caught.value)


def test_step_that_the_job_leaves_out_stays_recorded(store: RunStore) -> None:
    steps = identities(encode={"dtype": "float16"})
    record(store, steps)
    del steps["encode"]
    record(store, steps)
    assert read_run(store)["steps"]["encode"]["options"] == {"dtype": "float16"}
    with pytest.raises(RunMismatchError, match=r"encode\.dtype"):
        record(store, identities(encode={"dtype": "float32"}))


def test_step_added_to_or_left_out_of_a_chain_is_refused(store: RunStore) -> None:
    steps = identities(select={"min": 3})
    record(store, steps)
    without = {"download": steps["download"]}
    without["select"] = StepIdentity(
        step="select", options={"min": 3}, parents=(steps["download"].fingerprint,)
    )
    with pytest.raises(RunMismatchError, match="select: a step that it is made from was added or"):
        record(store, without)
    record(store, without, recut=frozenset({"select"}))


def test_changes_tell_absent_null_and_empty_apart() -> None:
    before = {"a": None, "b": {}, "c": (1, 2), "d": {"e": 1}}
    assert describe_changes(before, {"a": None, "b": {}, "c": [1, 2], "d": {"e": 1}}) == []
    assert describe_changes(before, {"b": {"x": 1}, "c": [2, 1], "d": None}) == [
        "a: was null, is now not set",
        "b: was {}, is now not set",
        "b.x: was not set, is now 1",
        "c: was [1, 2], is now [2, 1]",
        "d: was not set, is now null",
        "d.e: was 1, is now not set",
    ]


# revision.json -------------------------------------------------------------------------------


def test_no_revision_before_a_step_is_complete(store: RunStore) -> None:
    assert read_revision(store) == Revision(number=0, steps={})


def test_complete_step_sums_its_manifests_and_lists_its_files(store: RunStore) -> None:
    download = identities()["download"]
    complete(store, download)
    revision = read_revision(store)
    summary = revision.steps["download"]
    assert revision.number == 1
    assert (summary.rows_in, summary.kept, summary.num_shards) == (10, 6, 2)
    assert summary.dropped == {"dns_failed": 1, "http_gone": 3}
    assert summary.quarantined == ()
    paths = [f"download/00000{n}-{download.fingerprint}.tar" for n in range(2)]
    assert store.read_bytes("download/shards.txt").decode().splitlines() == paths
    with store.open("download/index.parquet") as stream:
        index = pq.read_table(stream, page_checksum_verification=True)
    assert index["path"].to_pylist() == paths
    assert index["shard_id"].to_pylist() == [0, 1]
    assert index["num_bytes"].to_pylist() == [7, 7]


def test_step_with_a_missing_shard_does_not_become_current(store: RunStore) -> None:
    download = identities()["download"]
    commit(store, download, num_shards=1)
    with pytest.raises(ShardError, match=r"000001\.json: missing"):
        complete_step(store, download, num_shards=2, folders=["download"], later=())
    assert read_revision(store).number == 0
    assert not store.exists("download/shards.txt")


def test_completing_a_step_again_changes_nothing(store: RunStore) -> None:
    download = identities()["download"]
    complete(store, download)
    before = store.read_bytes("revision.json")
    complete(store, download)
    assert store.read_bytes("revision.json") == before


def test_crash_amid_a_recut_leaves_no_complete_step_with_the_new_files(
    store: RunStore,
) -> None:
    old, new = identities(), identities(select={"min": 5})
    for identity in old.values():
        complete(store, identity)
    commit(store, new["select"])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete_step(
            store, new["select"], num_shards=2, folders=["select"], later=("encode",), publish=stop
        )
    assert new["select"].fingerprint in store.read_bytes("select/shards.txt").decode()
    assert set(read_revision(store).steps) == {"download", "score"}
    complete(store, old["select"])  # the old options again: the old files again
    assert old["select"].fingerprint in store.read_bytes("select/shards.txt").decode()


def test_quarantined_shards_are_listed(store: RunStore) -> None:
    score = identities()["score"]
    commit(store, score, num_shards=1)
    create_manifest(
        store,
        Manifest(
            step="score",
            fingerprint=score.fingerprint,
            shard_id=1,
            files=(),
            rows_in=5,
            kept=0,
            dropped={"shard_quarantined": 5},
            quarantined="boom",
        ),
    )
    summary = complete_step(store, score, num_shards=2, folders=["score"], later=())
    assert summary.quarantined == (1,)
    assert read_revision(store).steps["score"] == summary


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("download", {"download"}),
        ("score", {"download", "score"}),
        ("select", {"download", "score", "select"}),
        ("encode", set(STEPS)),
    ],
)
def test_new_revision_of_a_step_drops_what_was_made_from_the_old_one(
    store: RunStore, step: str, left: set[str]
) -> None:
    for identity in identities().values():
        complete(store, identity)
    changed = identities(**{step: {"changed": True}})[step]
    complete(store, changed)
    revision = read_revision(store)
    assert revision.number == 5
    assert revision.steps.keys() == left
    assert revision.steps[step].fingerprint == changed.fingerprint


def test_revision_is_plain_json_with_a_number_and_steps(store: RunStore) -> None:
    complete(store, identities()["download"])
    tree = json.loads(store.read_bytes("revision.json"))
    assert tree.keys() == {"revision", "steps", "own_digest"}
