"""The actor that owns one opened step."""

import os
from dataclasses import dataclass
from typing import Any

import ray

from pipelines.run.manifest import Manifest
from pipelines.steps.step import ShardStep
from sd_core.faults import environment_told
from sd_core.redacted_output import redacted_output
from sd_core.store_waits import bound_store_waits


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Where an actor runs, as it sees it."""

    node: str
    pid: int
    cuda_visible_devices: str | None


class ShardWorker:
    """A Ray actor that owns one opened step; it takes shard ids and returns manifests."""

    def __init__(self, step: ShardStep) -> None:
        self._step = step
        bound_store_waits()

    def place(self) -> WorkerFacts:
        """Where the worker runs, as soon as it does."""
        return WorkerFacts(
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )

    def open(self) -> None:
        """Load the step's weights."""
        with redacted_output(), environment_told():
            self._step.open()

    def run(self, shard_id: int) -> Manifest:
        """Turn one shard into committed files."""
        with redacted_output(), environment_told():
            return self._step.run(shard_id)

    def close(self) -> None:
        """Free the step, before the actor is let go."""
        self._step.close()


def worker_class(step: ShardStep) -> Any:
    """The actor's class, with what one worker of the step occupies."""
    # A class of the step's own name, so that `ps` and Ray's dashboard show which worker is which.
    named = type(f"{step.name.capitalize()}Worker", (ShardWorker,), {})
    resources = step.resources
    return ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_restarts=0)(
        named
    )
