"""One worker of a pool, or the place that is asked for it."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from pipelines.engine.ray_faults import INFRASTRUCTURE
from pipelines.engine.shard_worker import WorkerFacts
from pipelines.steps.step import Resources


@dataclass(frozen=True, eq=False)
class Attempt:
    """A shard that a worker has in hand."""

    shard_id: int
    ref: Any


@dataclass(eq=False)
class Slot:
    """A worker, or the place that is asked for it."""

    actor: Any
    need: Resources
    where: str | None
    """The node that it is asked for; None: any."""
    placing: Any  # the ref of `place`, None once it has answered
    opening: Any = None  # that of `open`, None once it has answered, or while nothing needs it
    facts: WorkerFacts | None = None
    inflight: deque[Attempt] = field(default_factory=deque)
    began: float = 0.0
    """When the first of these was begun."""
    not_before: float = 0.0
    """It waits after a fault of its disk or its store."""
    failed_starts: int = 0
    """Of this worker and those that it replaces, in a row."""
    lineage: object = field(default_factory=object)
    """The same for all of these."""
    beat: Any = None
    beaten: float = 0.0
    """When it last gave a sign of life."""
    rows_done: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether it can be given shards."""
        return self.placing is None and self.opening is None

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.is_ready and not self.inflight

    def is_on(self, node: str) -> bool:
        """Whether it has its place on a node."""
        return self.facts is not None and self.facts.node == node

    def describe(self, *, device: str) -> str:
        """That it is ready, where, and on what it computes."""
        assert self.facts is not None
        gpu = self.facts.cuda_visible_devices
        where = "CPU"
        if self.need.num_gpus and gpu:
            where = f"GPU {gpu}" if device == "cuda" else f"CPU: torch sees nothing of GPU {gpu}"
        return f"worker {self.facts.pid} on {self.facts.host} is ready ({where})"

    def silence(self, timeout_s: float) -> BaseException | None:
        """Ask for a sign of life; returns why the worker counts as lost, if it does and if no
        shard in its hand will tell."""
        if self.placing is not None:
            return None
        now = time.monotonic()
        if self.beat is not None and ray.wait([self.beat], timeout=0)[0]:
            try:
                self.rows_done, self.beaten = ray.get(self.beat), now
            except INFRASTRUCTURE as error:
                return error if self.is_idle else None
            finally:
                self.beat = None
        if self.beat is None:
            self.beat = self.actor.beat.remote()
            self.beaten = self.beaten or now
        if now - self.beaten <= timeout_s:
            return None
        return TimeoutError(f"it gave no sign of life for {timeout_s:.0f} s")


def kill(slot: Slot) -> None:
    """End a worker, or take back what was asked for it."""
    ray.kill(slot.actor, no_restart=True)


def close(slots: Sequence[Slot], *, timeout_s: float) -> None:
    """End idle workers, which are freeing what they held."""
    closing = [slot.opening for slot in slots if slot.opening is not None]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=timeout_s)
    for slot in slots:
        kill(slot)
