"""The actor that owns one opened step."""

import os
import time
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.run.manifest import Manifest
from pipelines.run.rows_done import rows_done
from pipelines.steps.step import ShardStep
from sd_core.faults import environment_told
from sd_core.redacted_output import redacted_output
from sd_core.store_waits import bound_store_waits


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Where an actor runs, as it sees it."""

    node: str
    host: str
    pid: int
    cuda_visible_devices: str | None


class ShardWorker:
    """A Ray actor that owns one opened step; it takes shard ids and returns manifests.

    All but `beat` runs on one thread, one call after another; `beat` answers beside them, as long
    as the process lives.
    """

    def __init__(self, step: ShardStep) -> None:
        self._step = step
        bound_store_waits()

    def place(self) -> WorkerFacts:
        """Where the worker runs, as soon as it does."""
        return WorkerFacts(
            node=ray.get_runtime_context().get_node_id(),
            host=os.uname().nodename,
            pid=os.getpid(),
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )

    def become(self, step: ShardStep) -> None:
        """Take another step; the one before is closed."""
        self._step = step

    def open(self, wait_s: float = 0.0) -> str:
        """Load the step's weights, after a while where a disk or a store has just failed; returns
        the device that they are on, `cpu` or `cuda`."""
        time.sleep(wait_s)
        with redacted_output(), environment_told():
            self._step.open()
        return str(getattr(self._step, "device", "cpu"))

    def run(self, shard_id: int) -> Manifest:
        """Turn one shard into committed files."""
        rows_done.begin()
        with redacted_output(), environment_told():
            return self._step.run(shard_id)

    def close(self) -> None:
        """Free the step, before the actor is let go or takes another."""
        self._step.close()

    @ray.method(concurrency_group="sight")
    def beat(self) -> int:
        """A sign of life: the rows that are done of the present shard."""
        return rows_done.count


_OPTIONS: dict[str, Any] = {"max_restarts": 0, "concurrency_groups": {"sight": 1}}
WORKER_CLASS: Any = ray.remote(**_OPTIONS)(ShardWorker)


def task_name(step: ShardStep, call: str) -> str:
    """What `ps` and Ray's dashboard show of a worker, so that it is seen which one is at what."""
    return f"{step.name.capitalize()}Worker.{call}"
