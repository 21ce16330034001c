"""Take rows out of a curated run: a new revision without them, and tombstones that keep them out.

Of a row only its number is left, with the reason `taken_down` and a digest in place of its key.
Rows whose originals have the same bytes go with it.
Shards without such rows are taken over as they are. The old revision's files stay until a
clean-up, so that nobody's training loses its files in the middle.
"""

from collections.abc import Mapping
from dataclasses import replace

from pipelines.config import ConfigError
from pipelines.plan import load_plan
from pipelines.revisions.adopt import adopt_download, copy_records
from pipelines.revisions.copies import with_their_copies
from pipelines.revisions.identities import recorded_steps, with_amendments
from pipelines.rules.tombstones import Tombstones, read_tombstones, write_tombstones
from pipelines.run.amendments import Amendments, read_amendments, write_amendments
from pipelines.run.cache_files import publish_cache, withdraw_cache
from pipelines.run.committed import Committed
from pipelines.run.record import (
    StepIdentity,
    complete_step,
    read_revision,
    read_run,
    withdraw_step,
    write_run,
)
from pipelines.run.store import RunStore
from pipelines.steps.kinds import STEP_KINDS, later_steps
from pipelines.steps.rewrite import RunTakedown, ShardTakedown
from sd_core.say import Say

_REPORT_FILE = "report/index.html"  # its thumbnails and texts are of rows


def take_down(store: RunStore, asked: Tombstones, *, say: Say) -> RunTakedown | None:
    """Make a revision without the rows that are asked for; finishes one that was interrupted.

    The caller holds the run's lease.

    Returns:
        What was done; None where there was nothing to do.

    Raises:
        ConfigError: it is not a curated run.
        ShardError: a shard is damaged.
    """
    run, amendments = read_run(store), read_amendments(store)
    old = recorded_steps(store, run)
    _take_over_begun(store, amendments, old)
    stones = with_their_copies(store, old["download"], asked | read_tombstones(store))
    if not stones:
        raise ConfigError("nothing to take down: the lists are empty")
    amendments = replace(amendments, tombstones=stones.digest, before=(), fetches_again=False)
    new = with_amendments(old, amendments)
    if new == old:
        say("nothing to do: all of it is taken down already")
        return None
    write_tombstones(store, stones)
    write_amendments(store, amendments)
    group = run["config"].get("encode") or {"download_shards_per_file": 1}
    done = RunTakedown(
        old={name: Committed(store, name, step.fingerprint) for name, step in old.items()},
        new={name: Committed(store, name, step.fingerprint) for name, step in new.items()},
        options={name: step.options_digest for name, step in new.items()},
        stones=stones,
        group=int(group["download_shards_per_file"]),
    )
    complete_before = read_revision(store).steps
    for name in old:
        _rewrite(done, name)
    for name, step in new.items():
        before = complete_before.get(name)
        is_current = before is not None and before.fingerprint == old[name].fingerprint
        num_shards = before.num_shards if before and is_current else _num_shards(done, name)
        _complete(store, step, num_shards=num_shards)
    store.delete(_REPORT_FILE)
    steps = {
        name: {"fingerprint": step.fingerprint, "options": step.options}
        for name, step in new.items()
    }
    # The last of all: until then the same command, or the job, does it again from the old ones.
    write_run(store, {**run, "steps": {**run["steps"], **steps}})
    return done


def is_unfinished(store: RunStore) -> bool:
    """Whether a takedown was killed before its end."""
    recorded = read_run(store).get("steps", {}).get("download", {}).get("options", {})
    tombstones = read_tombstones(store).digest
    return bool(recorded) and recorded.get("edition", {}).get("tombstones") != tombstones


def finish_takedown(store: RunStore, *, say: Say) -> None:
    """Finish a takedown that was killed; the caller holds the run's lease."""
    if is_unfinished(store):
        say("finishing a takedown that was interrupted")
        take_down(store, Tombstones(), say=say)


def _take_over_begun(
    store: RunStore, amendments: Amendments, old: Mapping[str, StepIdentity]
) -> None:
    """Of a retry or growth that has begun, finish the part that makes nothing new."""
    adopt_download(
        store,
        amendments=replace(amendments, fetches_again=False),
        fingerprint=old["download"].fingerprint,
        num_shards=load_plan(store).num_shards,
    )


def _rewrite(takedown: RunTakedown, step: str) -> None:
    """Every shard of a step, without what goes."""
    old, new = takedown.old[step], takedown.new[step]
    copy_records(old.store, step, old.fingerprint, new.fingerprint)
    rewrite = STEP_KINDS[step].rewrite
    for shard_id in sorted(old.shards()):
        shard = ShardTakedown(run=takedown, manifest=old.manifest(shard_id))
        if rewrite is None:
            shard.take_over()
        else:
            rewrite(shard)


def _num_shards(takedown: RunTakedown, step: str) -> int:
    num_shards = load_plan(takedown.old[step].store).num_shards
    return -(-num_shards // takedown.group) if STEP_KINDS[step].is_grouped else num_shards


def _complete(store: RunStore, step: StepIdentity, *, num_shards: int) -> None:
    """Make a step current if every shard of it is there; else withdraw what readers see of it.

    The job completes it when it is run again.
    """
    kind, made = STEP_KINDS[step.step], Committed(store, step.step, step.fingerprint)
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
    )
