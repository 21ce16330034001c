"""`clean --crops`: a run keeps the pictures of its kept rows once, and no others."""

from dataclasses import dataclass, replace
from functools import partial

from pipelines.config import ConfigError
from pipelines.plan import load_plan
from pipelines.prompts import is_prompt_plan, load_prompt_plan
from pipelines.revisions.adopt import copy_records
from pipelines.revisions.readers import is_shown
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.checked import open_checked
from pipelines.run.committed import Committed
from pipelines.run.crops import KEPT_FOLDER, RemovedCrops, read_removed, write_removed
from pipelines.run.manifest import FileEntry
from pipelines.run.on_threads import do_all, in_order
from pipelines.run.record import StepIdentity, read_revision, read_run
from pipelines.run.revision_files import origin_of
from pipelines.run.store import RunStore
from pipelines.steps.rewrite import RunTakedown, ShardTakedown, rewrite_members

_FIRST = "--crops: {}; nothing was removed"


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """A shard's crops, what is left of them, and how many bytes of the crops are there."""

    crops: FileEntry
    left: FileEntry | None
    num_bytes: int | None


def clean_crops(store: RunStore, *, dry: bool = False) -> tuple[list[FileEntry], RemovedCrops]:
    """Remove the crops of a run whose kept pictures are published: those of dropped rows are then
    gone, those of kept ones are read from what publish made.

    The caller holds the run's lease. Every tar that stands for others is held against its digest
    before these go. Killed, it is finished by being called again.

    Args:
        dry: Change nothing, and read no picture.

    Returns:
        The files that were there, and what the run has lost now.

    Raises:
        ConfigError: the run is not in a state for it; says what to do.
        ShardError: a kept picture's tar is missing or damaged; nothing is removed then.
    """
    made, publish = _settled_steps(store)
    manifests = [(made.manifest(n), publish.manifest(n)) for n in range(len(made.shards()))]
    pairs = [(m.file("images"), p.file(KEPT_FOLDER)) for m, p in manifests]
    look = partial(_look, store, checks=not dry)
    there = [(crops, left) for crops, left in pairs if crops is not None]
    found = list(in_order(look, there, num_threads=store.num_threads))
    removed = RemovedCrops(
        publish=publish.fingerprint,
        pictures=sum(s.crops.num_rows - (s.left.num_rows if s.left else 0) for s in found),
        num_bytes=sum(
            max(0, s.crops.num_bytes - (s.left.num_bytes if s.left else 0)) for s in found
        ),
    )
    gone = [replace(s.crops, num_bytes=s.num_bytes) for s in found if s.num_bytes is not None]
    if not dry:
        write_removed(store, removed)  # first: readers of a crop that goes must find what is left
        store.delete_all([entry.path for entry in gone])
    return gone, removed


def _look(store: RunStore, pair: tuple[FileEntry, FileEntry | None], *, checks: bool) -> _Shard:
    crops, left = pair
    if left is not None and checks:
        with open_checked(store, left):
            pass
    try:
        return _Shard(crops=crops, left=left, num_bytes=store.size(crops.path))
    except FileNotFoundError:
        return _Shard(crops=crops, left=left, num_bytes=None)


def _settled_steps(store: RunStore) -> tuple[Committed, Committed]:
    """The step that made the images, and publish, of a run with nothing begun or owed."""
    if store.is_flat:
        raise ConfigError(_FIRST.format("a run of the former layout has no second copy of them"))
    steps, recorded = read_revision(store).steps, read_run(store).get("steps", {})
    origin = origin_of(steps)
    if is_unfinished(store):
        raise ConfigError(_FIRST.format("a takedown was interrupted: give it again first"))
    if origin is None or "publish" not in steps.keys() & recorded.keys():
        raise ConfigError(
            _FIRST.format("the run has no complete publish step; run the job with it first")
        )
    plan = (load_prompt_plan if is_prompt_plan(store) else load_plan)(store)
    for name, step in recorded.items():
        done = steps.get(name)
        is_whole = name == "encode" or (done is not None and done.num_shards == plan.num_shards)
        if done is None or done.fingerprint != step["fingerprint"] or not is_whole:
            raise ConfigError(_FIRST.format(f"{name} is not complete; run the job again first"))
    if lost := len(steps["publish"].quarantined):
        told = f"publish gave up {lost:,} shard(s); run the job with --retry first"
        raise ConfigError(_FIRST.format(told))
    if not is_shown(store):
        raise ConfigError(
            _FIRST.format("readers find an earlier revision; run the job again first")
        )
    made = {name: Committed(store, name, steps[name].fingerprint) for name in (origin, "publish")}
    return made[origin], made["publish"]


def take_down_left(run: RunTakedown, store: RunStore) -> None:
    """Have what stands for removed crops lose the hidden rows too, whatever cut it is of."""
    removed = read_removed(store)
    if removed is None:
        return
    told = StepIdentity(
        step="publish", options={"without": run.stones.digest}, parents=(removed.publish,)
    )
    old, new = (Committed(store, "publish", f) for f in (removed.publish, told.fingerprint))
    copy_records(store, "publish", old.fingerprint, new.fingerprint)
    left = replace(run, old={"publish": old}, new={"publish": new})

    def rewrite(shard_id: int) -> None:
        rewrite_members(ShardTakedown(run=left, manifest=old.manifest(shard_id)), KEPT_FOLDER)

    do_all(rewrite, sorted(old.shards()), num_threads=store.num_threads)
    write_removed(store, replace(removed, publish=new.fingerprint))
