"""What a job at work says of itself, as lines of text."""

import time
from collections.abc import Iterator, Mapping

from pipelines.run.sight import JobSight, StepSight, TrainingSight, WorkersSight
from sd_core.say import duration, size

_SHOWN_NODES = 16


def sight_lines(sight: JobSight) -> Iterator[str]:
    """How fast each step goes, on which workers, and what is in the way."""
    ago = max(0.0, time.time() - sight.written)
    yield f"at work for {duration(sight.running_s)}, as the job said {ago:,.0f} s ago:"
    for step in sight.steps:
        yield f"  {_pace(step)}"
        if step.workers is not None and step.done < step.shards:
            yield f"  {'':12}{_workers(step.workers)}"
    if sight.training is not None:
        yield f"  {_training(sight.training)}"
    if sight.waits_for is not None:
        yield f"waits for: {sight.waits_for}"
    if sight.errors:
        yield "the last errors that were borne:"
        yield from (f"  {error}" for error in sight.errors)


def _training(training: TrainingSight) -> str:
    told = f"step {training.step:,} of {training.steps:,}"
    for name, loss in training.losses.items():
        told += f", {name} {loss:.4f}"
    if training.samples_per_s is not None and training.left_s is not None:
        told += f", {training.samples_per_s:,.1f} images/s, {duration(training.left_s)} left"
    return f"{told}; {_placed(training.by_node)}"


def _pace(step: StepSight) -> str:
    told = f"{step.step:<12}{step.done:,} of {step.shards:,} shards"
    if step.rows:
        told += f", {step.rows:,} rows, {step.kept / step.rows:.1%} kept"
    if step.done == step.shards:
        return told
    if step.left_s is None:
        return f"{told}, nothing committed yet by this job"
    rates = f"{step.rows_per_s or 0:,.1f} rows/s, {size(step.bytes_per_s or 0)}/s"
    return f"{told}, {rates}, {duration(step.left_s)} left"


def _workers(workers: WorkersSight) -> str:
    told = _placed(workers.by_node)
    if workers.pending:
        told += f"; {workers.pending:,} without a place"
    if workers.busy is not None and workers.starved is not None:
        told += f"; busy {workers.busy:.0%}, starved {workers.starved:.0%}"
    return f"{told}; {workers.rows_in_hand:,} rows in hand, {workers.queued:,} shards to begin"


def _placed(by_node: Mapping[str, int]) -> str:
    nodes = sorted(by_node.items(), key=lambda item: (-item[1], item[0]))
    placed = ", ".join(f"{node} {count}" for node, count in nodes[:_SHOWN_NODES])
    more = f", {len(nodes) - _SHOWN_NODES} more nodes" if len(nodes) > _SHOWN_NODES else ""
    return f"{sum(by_node.values()):,} worker(s)" + (f": {placed}{more}" if placed else "")
