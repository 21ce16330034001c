"""Take rows out of a run: a new revision without them, and tombstones that keep them out.

Of a row only its number is left, with the reason `taken_down` and a digest in place of its key.
Rows with the same bytes go with it. Of a generated run the prompts go whose images all do.
Shards without such rows are taken over as they are. The old revision's files stay until a
clean-up, so that nobody's training loses its files in the middle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.plan import load_plan
from pipelines.prompts import load_prompt_plan, mask_plan
from pipelines.revisions.adopt import adopt_download, copy_records
from pipelines.revisions.crops import take_down_left
from pipelines.revisions.identities import recorded_steps, with_amendments
from pipelines.revisions.reach import Reach, find_reach
from pipelines.revisions.readers import show_revision
from pipelines.revisions.unmatched import Entries, masked_entries, record_unmatched
from pipelines.revisions.uses import list_earlier_uses, list_uses
from pipelines.rules.tombstones import (
    Tombstones,
    is_unfinished,
    read_tombstones,
    write_tombstones,
)
from pipelines.run.amendments import Amendments, read_amendments, write_amendments
from pipelines.run.cache_files import publish_cache, withdraw_cache
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.on_threads import in_order
from pipelines.run.record import (
    StepIdentity,
    complete_step,
    read_revision,
    read_run,
    withdraw_step,
    write_run,
)
from pipelines.run.sight import SIGHT_FILE
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS, later_steps
from pipelines.steps.rewrite import RunTakedown, ShardTakedown
from sd_core.say import Say

_REPORT_FILE = "report/index.html"  # its thumbnails and texts are of rows


@dataclass(frozen=True, kw_only=True)
class TakenDown:
    """What a takedown did.

    Attributes:
        num_rows: Taken down now, in `num_shards`.
        unmatched: Entries that no row of the run has; `takedown/unmatched.json` names them.
        uses: A line for each job that left word in the run and used its rows.
    """

    num_rows: int = 0
    num_shards: int = 0
    unmatched: int = 0
    uses: Sequence[str] = ()


def take_down(
    store: RunStore, asked: Tombstones, *, say: Say, entries: Entries | None = None
) -> TakenDown:
    """Make a revision without the rows that are asked for; finishes one that was interrupted.

    The caller holds the run's lease.

    Args:
        entries: What `asked` was made of, to be told where no row has it.

    Raises:
        ConfigError: it is no curated or generated run.
        ShardError: a shard is damaged.
    """
    store.delete(SIGHT_FILE)  # the last words of a job that was killed may name a row
    run, amendments = read_run(store), read_amendments(store)
    old = recorded_steps(store, run)
    _take_over_begun(store, amendments, old)
    earlier = read_tombstones(store)
    reach = _reach(store, old, asked | earlier, entries or {})
    if not reach.stones:
        say("nothing to do: nothing is asked for")
        return TakenDown()
    unmatched = record_unmatched(store, entries or {}, hits=reach.hits, earlier=earlier)
    amendments = replace(amendments, tombstones=reach.stones.digest, before=(), fetches_again=False)
    new = with_amendments(old, amendments)
    if new == old:
        say("nothing to do: all of it is taken down already")
        uses = list_earlier_uses(store, select=old.get("select"))
        return TakenDown(unmatched=unmatched, uses=uses)
    write_tombstones(store, reach.stones)
    write_amendments(store, amendments)
    done = _begin(store, old, new, reach.stones, run)
    for name in old:
        _rewrite(done, name)
    take_down_left(done, store)
    _complete_all(done, old, new)
    store.delete(_REPORT_FILE)
    show_revision(store)
    if done.origin == "generate":
        mask_plan(store, reach.stones)
    steps = {
        name: {"fingerprint": step.fingerprint, "options": step.options}
        for name, step in new.items()
    }
    # The last of all: until then the same command, or the job, does it again from the old ones.
    write_run(store, {**run, "steps": {**run["steps"], **steps}})
    return TakenDown(
        num_rows=done.num_rows,
        num_shards=len(done.hidden),
        unmatched=unmatched,
        uses=list_uses(store, done),
    )


def finish_takedown(store: RunStore, *, say: Say) -> None:
    """Finish a takedown that was killed; the caller holds the run's lease."""
    if is_unfinished(store):
        say("finishing a takedown that was interrupted")
        take_down(store, Tombstones(), say=say)


def _reach(
    store: RunStore, old: Mapping[str, StepIdentity], stones: Tombstones, entries: Entries
) -> Reach:
    made = {name: Committed(store, name, step.fingerprint) for name, step in old.items()}
    origin = next(iter(made.values()))
    return find_reach(origin, made.get("select"), stones, others=masked_entries(entries))


def _begin(
    store: RunStore,
    old: Mapping[str, StepIdentity],
    new: Mapping[str, StepIdentity],
    stones: Tombstones,
    run: Mapping[str, Any],
) -> RunTakedown:
    encode, origin = run["config"].get("encode") or {}, next(iter(old))
    made = {name: Committed(store, name, step.fingerprint) for name, step in old.items()}
    return RunTakedown(
        old=made,
        new={name: Committed(store, name, step.fingerprint) for name, step in new.items()},
        options={name: step.options_digest for name, step in new.items()},
        stones=stones,
        origin=origin,
        num_shards=len(made[origin].shards()),
        group=int(encode.get("download_shards_per_file", 1)),
    )


def _take_over_begun(
    store: RunStore, amendments: Amendments, old: Mapping[str, StepIdentity]
) -> None:
    """Of a retry or growth that has begun, finish the part that makes nothing new."""
    if "download" not in old:
        return
    plan = load_plan(store)
    adopt_download(
        Committed(store, "download", old["download"].fingerprint),
        amendments=replace(amendments, fetches_again=False),
        num_rows=plan.num_rows_of,
        num_shards=plan.num_shards,
    )


def _rewrite(takedown: RunTakedown, step: str) -> None:
    """Every shard of a step, without what goes."""
    old, new = takedown.old[step], takedown.new[step]
    copy_records(old.store, step, old.fingerprint, new.fingerprint)
    rewrite = STEP_KINDS[step].rewrite or ShardTakedown.take_over

    def work(shard_id: int) -> Manifest:
        return rewrite(ShardTakedown(run=takedown, manifest=old.manifest(shard_id)))

    new.begin()
    for manifest in in_order(work, sorted(old.shards()), num_threads=old.store.num_threads):
        new.log.add(manifest)


def _complete_all(
    takedown: RunTakedown, old: Mapping[str, StepIdentity], new: Mapping[str, StepIdentity]
) -> None:
    store = takedown.new[takedown.origin].store
    is_generated = takedown.origin == "generate"
    planned = (load_prompt_plan(store) if is_generated else load_plan(store)).num_shards
    complete_before = read_revision(store).steps
    for name, step in new.items():
        before = complete_before.get(name)
        is_current = before is not None and before.fingerprint == old[name].fingerprint
        every = -(-planned // takedown.group) if STEP_KINDS[name].is_grouped else planned
        num_shards = before.num_shards if before and is_current else every
        _complete(takedown.new[name], step, num_shards=num_shards)


def _complete(made: Committed, step: StepIdentity, *, num_shards: int) -> None:
    """Make a step current if every shard of it is there; else withdraw what readers see of it.

    The job completes it when it is run again.
    """
    kind, store = STEP_KINDS[step.step], made.store
    if len(made.shards()) < num_shards:
        if step.step == "encode":
            withdraw_cache(store)
        withdraw_step(store, step.step, folders=kind.paths, later=later_steps(step.step))
        return
    complete_step(
        store,
        step,
        num_shards=num_shards,
        folders=kind.paths,
        later=later_steps(step.step),
        publish=lambda: publish_cache(made) if step.step == "encode" else None,
        made=made,
    )
