"""What a job at work says of itself in its run every few seconds, for whoever looks: `status.json`.

It is no record: no revision names it, no reader needs it, and it goes when the job ends.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from pipelines.run.store import RunStore

SIGHT_FILE: Final = "status.json"


@dataclass(frozen=True, kw_only=True)
class WorkersSight:
    """A step's workers on a cluster.

    Attributes:
        by_node: How many have their place, by the name of the node.
        pending: How many have none yet.
        busy, starved: Of the time that they were ready in the last minutes, how much they worked,
            and had nothing to do; null before there was any.
        rows_in_hand: Rows done of shards that are under way.
        queued: Shards that could be begun and are not.
    """

    by_node: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    busy: float | None = None
    starved: float | None = None
    rows_in_hand: int = 0
    queued: int = 0


@dataclass(frozen=True, kw_only=True)
class StepSight:
    """How far a step is in this job.

    Attributes:
        done: Of `shards`, those of earlier jobs included; `rows` and `kept` are of this job's.
        rows_per_s, bytes_per_s: Over the last minutes, as committed; null before the first commit.
        left_s: At that pace; null where there is none to go by.
        workers: Null without a cluster, and before the first look.
    """

    step: str
    shards: int
    done: int
    rows: int = 0
    kept: int = 0
    rows_per_s: float | None = None
    bytes_per_s: float | None = None
    left_s: float | None = None
    workers: WorkersSight | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingSight:
    """How far a training is, by its last log line.

    Attributes:
        step: 0 before the first line; `steps` is where it ends.
        losses: Means since the line before, by name.
        samples_per_s: Over the same steps; null before the first line.
        left_s: At that pace.
        by_node: How many workers have begun, by the name of their node.
    """

    step: int
    steps: int
    losses: Mapping[str, float] = field(default_factory=dict)
    samples_per_s: float | None = None
    left_s: float | None = None
    by_node: Mapping[str, int] = field(default_factory=dict)


Tell = Callable[[TrainingSight], None]


@dataclass(frozen=True, kw_only=True)
class JobSight:
    """A job at work.

    Attributes:
        host, pid: Of its driver, as its lease has them.
        written: When this was, in seconds since 1970 by the driver's clock.
        running_s: Since the job took the run.
        waits_for: What it cannot go on without, in words; null where it goes on.
        errors: The last of what went wrong and was borne, oldest first.
        training: Of a training, which has no steps of shards; null before a worker has begun.
    """

    host: str
    pid: int
    written: float
    running_s: float
    steps: tuple[StepSight, ...] = ()
    waits_for: str | None = None
    errors: tuple[str, ...] = ()
    training: TrainingSight | None = None


def write_sight(store: RunStore, sight: JobSight) -> None:
    """Replace what the job said before."""
    store.replace(SIGHT_FILE, (json.dumps(asdict(sight), indent=1) + "\n").encode())


def read_sight(store: RunStore) -> JobSight | None:
    """What a job said last; None where there is nothing, or nothing that this version writes."""
    try:
        tree = json.loads(store.read_bytes(SIGHT_FILE))
        steps = [
            StepSight(**{**step, "workers": step["workers"] and WorkersSight(**step["workers"])})
            for step in tree.pop("steps")
        ]
        training = tree.pop("training", None)
        tree |= {"steps": tuple(steps), "errors": tuple(tree["errors"])}
        return JobSight(**tree, training=training and TrainingSight(**training))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
