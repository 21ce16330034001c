"""How far a training is, who is at it and what its command would do next."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.report.sight import sight_lines
from pipelines.report.status import LeaseStatus, last_activity_of, lease_of, sight_of
from pipelines.run.record import read_run
from pipelines.run.sight import JobSight
from pipelines.run.store import RunStore
from pipelines.training.checkpoints import newest_step
from pipelines.training.records import read_metrics
from pipelines.training.result import read_result
from sd_core.redact import redact_url


@dataclass(frozen=True, kw_only=True)
class TrainingStatus:
    """A training as it is now.

    Attributes:
        steps: That were asked for; 0 where the run does not tell.
        checkpoint: The step of the newest one; 0: none yet.
        metrics: The last line of them; null before the first.
        is_complete: Whether the model of the last step is there.
        last_activity, now, next: As `RunStatus` has them.
    """

    run: str
    job: str
    steps: int
    checkpoint: int
    metrics: Mapping[str, Any] | None
    is_complete: bool
    lease: LeaseStatus | None
    last_activity: str | None
    now: JobSight | None
    next: str


def training_status(store: RunStore) -> TrainingStatus:
    """What a training's records say; raises `ResultError` where its result is damaged."""
    record = read_run(store)
    steps = int(record.get("config", {}).get("loop", {}).get("steps", 0))
    result, checkpoint = read_result(store), newest_step(store)
    is_complete = result is not None and result["step"] >= steps
    lease = lease_of(store)
    doing = (
        "finds nothing to do: the training is complete"
        if is_complete
        else f"goes on from step {checkpoint:,}"
    )
    return TrainingStatus(
        run=redact_url(store.root),
        job="train",
        steps=steps,
        checkpoint=checkpoint,
        metrics=next(reversed(read_metrics(store)), None),
        is_complete=is_complete,
        lease=lease,
        last_activity=last_activity_of(store),
        now=sight_of(store, lease),
        next=lease.waits if lease is not None and lease.is_alive else doing,
    )


def training_lines(status: TrainingStatus) -> Iterator[str]:
    state = ", complete" if status.is_complete else ""
    yield f"{status.run}: train, {status.steps:,} steps{state}"
    yield f"newest checkpoint: step {status.checkpoint:,}"
    for name, value in (status.metrics or {}).items():
        yield f"    {name}: {value:.6g}" if isinstance(value, float) else f"    {name}: {value}"
    yield f"held by: {status.lease or 'nobody'}"
    yield f"last activity: {status.last_activity or 'not told by the store'}"
    if status.now is not None:
        yield from sight_lines(status.now)
    yield f"next: the same command {status.next}"
