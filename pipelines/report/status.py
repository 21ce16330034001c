"""How far a run is, who is at it and what its command would do next, by reading a few files."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from pipelines.plan.record import PlanSize, read_plan_size
from pipelines.report.sight import sight_lines
from pipelines.rows.ledger import RETRIED_REASONS
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.committed import Committed
from pipelines.run.lease import EXPIRY_S, is_dead_here, read_holder
from pipelines.run.on_threads import in_order
from pipelines.run.rates import RATES_FILE
from pipelines.run.record import REVISION_FILE, RUN_FILE, Revision, read_revision, read_run
from pipelines.run.sight import JobSight, read_sight
from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record
from pipelines.steps.kinds import STEP_KINDS
from sd_core.redact import redact_url

_COUNTED_SHARDS: Final = 256  # manifests that are read of a step that is not complete
_SHOWN_REASONS: Final = 8


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """One step with its present options.

    Attributes:
        shards: That it has in all; `done` of them are committed.
        given_up: Of those that were counted.
        counted: Shards by which `rows`, `kept` and `dropped` are told: all that are done of a
            complete step, else at most 256 of them, evenly spread.
        dropped: Rows by reason; select's are those of the whole ledger.
    """

    step: str
    shards: int
    done: int
    is_complete: bool
    given_up: int = 0
    counted: int = 0
    rows: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeaseStatus:
    """Who holds the run; `is_alive` where the last heartbeat is younger than a lease lasts."""

    host: str
    pid: int
    beat_s_ago: float
    is_alive: bool

    @property
    def waits(self) -> str:
        """What another job would do meanwhile."""
        return f"waits a minute for pid {self.pid} on {self.host}, and ends with 75"

    def __str__(self) -> str:
        state = "at work" if self.is_alive else "gone, its lease is taken over"
        return f"pid {self.pid} on {self.host}, {state}; heartbeat {self.beat_s_ago:,.0f} s ago"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """A run of committed steps as it is now.

    Attributes:
        plan: None before there is one.
        last_activity: When a job last wrote one of the run's records, in ISO 8601, UTC; null where
            the store does not tell.
        now: What the job that holds the run said last; null where none does, or it has said
            nothing yet.
        next: What the command that made the run would do now.
    """

    run: str
    job: str
    revision: int
    plan: PlanSize | None
    steps: tuple[StepStatus, ...]
    lease: LeaseStatus | None
    last_activity: str | None
    now: JobSight | None
    next: str


def status_of(store: RunStore) -> RunStatus:
    """What a run's records say; nothing is locked, so that a job at work may be ahead of it.

    Raises:
        PlanError, DamagedRecordError, ShardError: a record is damaged.
    """
    record, revision = read_run(store), read_revision(store)
    plan = read_plan_size(store)
    steps = tuple(_steps(store, record, revision, plan.shards)) if plan is not None else ()
    lease = lease_of(store)
    return RunStatus(
        run=redact_url(store.root),
        job=str(record.get("job", "curate")),
        revision=revision.number,
        plan=plan,
        steps=steps,
        lease=lease,
        last_activity=last_activity_of(store),
        now=sight_of(store, lease),
        next=_next(store, steps, lease, limit=None if plan is None else plan.limit),
    )


def _steps(
    store: RunStore, record: Mapping[str, Any], revision: Revision, shards: int
) -> Iterator[StepStatus]:
    config = record.get("config", {}).get("encode") or {}
    for name, kind in STEP_KINDS.items():
        recorded = record.get("steps", {}).get(name)
        if recorded is None:
            continue
        group = config.get("download_shards_per_file", 1) if kind.is_grouped else 1
        if not isinstance(recorded, dict) or "fingerprint" not in recorded:
            raise damaged_record(store, RUN_FILE, f"{name} has no fingerprint")
        committed = Committed(store, name, recorded["fingerprint"])
        yield _step(committed, revision, -(-shards // group))


def _step(committed: Committed, revision: Revision, shards: int) -> StepStatus:
    summary = revision.steps.get(committed.step)
    now = (committed.fingerprint, shards)
    if summary is not None and (summary.fingerprint, summary.num_shards) == now:
        return StepStatus(
            step=committed.step,
            shards=shards,
            done=shards,
            is_complete=True,
            given_up=len(summary.quarantined),
            counted=shards,
            rows=summary.rows_in,
            kept=summary.kept,
            dropped=dict(summary.dropped),
        )
    done = sorted(committed.shards())
    chosen = done[:: -(-len(done) // _COUNTED_SHARDS) or 1]
    found = list(in_order(committed.manifest, chosen, num_threads=committed.store.num_threads))
    return StepStatus(
        step=committed.step,
        shards=shards,
        done=len(done),
        is_complete=False,
        given_up=sum(manifest.quarantined is not None for manifest in found),
        counted=len(found),
        rows=sum(manifest.rows_in for manifest in found),
        kept=sum(manifest.kept for manifest in found),
        dropped=dict(sum((Counter(manifest.dropped) for manifest in found), Counter[str]())),
    )


def lease_of(store: RunStore) -> LeaseStatus | None:
    """Who holds a run of any kind; None where nobody does."""
    holder = read_holder(store)
    if holder is None:
        return None
    ago = max(0.0, time.time() - holder.heartbeat)
    is_alive = ago < EXPIRY_S and not is_dead_here(holder)
    return LeaseStatus(
        host=holder.host, pid=holder.pid, beat_s_ago=round(ago, 1), is_alive=is_alive
    )


def sight_of(store: RunStore, lease: LeaseStatus | None) -> JobSight | None:
    """What the job that holds a run of any kind said last; see `RunStatus`."""
    if lease is None or not lease.is_alive:
        return None  # what is there was left by a job that was killed
    sight = read_sight(store)
    return (
        sight if sight is not None and (sight.host, sight.pid) == (lease.host, lease.pid) else None
    )


def last_activity_of(store: RunStore) -> str | None:
    """When a job last wrote a record of a run of any kind; see `RunStatus`."""
    times = []
    for path in (RUN_FILE, REVISION_FILE, RATES_FILE):
        with suppress(FileNotFoundError, NotImplementedError):
            times.append(store.filesystem.modified(store.absolute(path)))
    holder = read_holder(store)
    if holder is not None and holder.heartbeat:
        times.append(datetime.fromtimestamp(holder.heartbeat, UTC))
    return max(times).isoformat(timespec="seconds") if times else None


def _next(
    store: RunStore,
    steps: tuple[StepStatus, ...],
    lease: LeaseStatus | None,
    *,
    limit: int | None,
) -> str:
    """What the command that made the run would do now."""
    if lease is not None and lease.is_alive:
        return lease.waits
    first = "finishes the takedown that was stopped, then " if is_unfinished(store) else ""
    if not steps:
        return f"{first}plans the list, where that is still to do, and begins"
    if owed := [step for step in steps if not step.is_complete]:
        told = (f"{step.step} ({step.shards - step.done:,} of {step.shards:,})" for step in owed)
        return f"{first}goes on; shards owed: {', '.join(told)}"
    whole = "" if limit is None else f" (the first {limit:,} rows; without --limit it goes on)"
    return first + (_made_again(steps) or f"finds nothing to do: every step is complete{whole}")


def _made_again(steps: tuple[StepStatus, ...]) -> str | None:
    """What only `--retry` would do; None where that is nothing."""
    told = [
        f"{reason} {rows:,}"
        for step in steps
        if STEP_KINDS[step.step].taken_over == "amendments"
        for reason, rows in sorted(step.dropped.items())
        if reason in RETRIED_REASONS
    ]
    told += [f"{step.given_up:,} shard(s) of {step.step}" for step in steps if step.given_up]
    if not told:
        return None
    return f"finds nothing to do; with --retry it makes again: {', '.join(told)}"


def status_lines(status: RunStatus) -> Iterator[str]:
    plan = status.plan
    planned = "no plan yet" if plan is None else f"{plan.rows:,} rows in {plan.shards:,} shards"
    yield f"{status.run}: {status.job}, revision {status.revision}, {planned}"
    before: Counter[str] = Counter()
    for step in status.steps:
        yield _step_line(step)
        own = Counter(step.dropped) - before
        before |= own
        yield from (
            f"{'':12}{rows:>10,} {reason}" for reason, rows in own.most_common(_SHOWN_REASONS)
        )
        if len(own) > _SHOWN_REASONS:
            yield f"{'':12}{'...':>10} {len(own) - _SHOWN_REASONS} more reasons; --json has all"
    yield f"held by: {status.lease or 'nobody'}"
    if status.now is not None:
        yield from sight_lines(status.now)
    yield f"last activity: {status.last_activity or 'not told by the store'}"
    yield f"next: the same command {status.next}"


def _step_line(step: StepStatus) -> str:
    state = "complete" if step.is_complete else f"{step.shards - step.done:,} owed"
    lost = f", {step.given_up:,} given up" if step.given_up else ""
    some = f" (in {step.counted:,} of them)" if step.counted < step.done else ""
    return (
        f"{step.step:<12}{step.done:,} of {step.shards:,} shards, {state}{lost}; "
        f"{step.kept:,} of {step.rows:,} rows kept{some}"
    )
