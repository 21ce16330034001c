"""What a job waits for on a cluster, said as long as it does, and for how long."""

import time
from collections.abc import Sequence

import ray

from pipelines.engine.chain import ResourcesError
from pipelines.engine.pool import Pool
from pipelines.engine.supply import Node, describe_supply, other_jobs
from sd_core.say import Say, duration

_SAY_EVERY_S = 30.0
_FIRST_SAID_S = 20.0  # workers take their time to start
_NO_WORKER_S = 600.0
"""So long may a cluster take to start any worker at all, as one whose nodes were preempted."""


class Waiting:
    """Watches for pools of which no worker has a place.

    Args:
        wait_s: So long a step may be without any worker, before the job ends.

    Attributes:
        told: What is awaited now; None: nothing.
    """

    def __init__(self, wait_s: float, *, say: Say) -> None:
        self._wait_s = wait_s or _NO_WORKER_S
        self._say = say
        self.told: str | None = None
        self._since: dict[str, float] = {}
        self._said = 0.0

    def look(self, pools: Sequence[Pool], nodes: Sequence[Node]) -> None:
        """Say what is awaited, every now and then; raises `ResourcesError` after too long."""
        now = time.monotonic()
        without = {pool.step.name: pool for pool in pools if not _has_enough(pool, nodes)}
        self._since = {name: self._since.get(name, now) for name in without}
        if not without:
            self.told = None
            return
        waited = now - min(self._since.values())
        told = "; ".join(_describe(pool) for pool in without.values())
        told = f"{told}: {describe_supply(nodes)}{_others()}"
        self.told = told
        if waited > self._wait_s:
            raise ResourcesError(
                f"waited {duration(self._wait_s)} in vain for {told}. The same command goes on; "
                "engine.wait_for_resources_s says how long a job waits"
            )
        if waited >= _FIRST_SAID_S and now - self._said >= _SAY_EVERY_S:
            self._said = now
            self._say(f"waits for {told}; it waits {duration(self._wait_s - waited)} more")


def _has_enough(pool: Pool, nodes: Sequence[Node]) -> bool:
    need = pool.step.resources
    there = sum(node.gpus for node in nodes) >= need.min_workers * need.num_gpus
    pool.was_enough |= there
    return pool.num_placed > 0 and pool.was_enough


def _describe(pool: Pool) -> str:
    need = pool.step.resources
    each = f"{need.num_cpus:g} CPU" + (f" and {need.num_gpus:g} GPU" if need.num_gpus else "")
    told = f"{need.min_workers} worker(s) of {pool.step.name}, {each} each"
    return f"{told} (with engine.gpus 0 on the CPU)" if need.num_gpus else told


def _others() -> str:
    jobs = other_jobs(ray.get_runtime_context().namespace)
    return f"; other jobs there: {', '.join(jobs)}" if jobs else ""
