"""A step's workers on a Ray cluster: asked for, placed, opened, at work, gone."""

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.engine.ray_faults import is_alive
from pipelines.engine.shard_worker import WORKER_CLASS, task_name
from pipelines.engine.slot import Attempt, Slot, kill
from pipelines.engine.supply import Places
from pipelines.steps.step import ShardStep, may_repeat

_PAST_SHARDS = 200  # of which a step's usual time is known
_FEWEST_PAST = 8
_OVERDUE = 1.5
"""So many times the time of 19 of 20 shards, and a shard is given to an idle worker as well."""
_SOONEST_S = 1.0


@dataclass
class PoolSight:
    """What is seen of a step's workers.

    Attributes:
        busy_s, idle_s: Seconds that ready workers worked, and had nothing to do.
        pending: Workers that have no place yet.
        hosts: Placed workers by the name of their node.
        rows_in_hand: Rows done of shards that are under way.
    """

    busy_s: float = 0.0
    idle_s: float = 0.0
    pending: int = 0
    hosts: Counter[str] = field(default_factory=Counter)
    rows_in_hand: int = 0


class Starter:
    """Asks the cluster for workers.

    Args:
        name: Of the job, by which its workers are named.

    Attributes:
        avoid: Ids of nodes that get none of them.
    """

    def __init__(self, name: str) -> None:
        self.avoid: set[str] = set()
        self._name = name
        self._started = 0

    def start(self, step: ShardStep, where: str | None) -> Slot:
        """Ask for a worker of a step, on a node or on any."""
        need = step.resources
        self._started += 1
        options: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
        if where is not None:
            options = {"scheduling_strategy": NodeAffinitySchedulingStrategy(where, soft=False)}
        elif self.avoid:
            options = {"label_selector": {"ray.io/node-id": f"!in({','.join(sorted(self.avoid))})"}}
        actor = WORKER_CLASS.options(
            name=f"{self._name} worker {self._started}",
            num_cpus=need.num_cpus,
            num_gpus=need.num_gpus,
            **options,
        ).remote(step)
        placing = actor.place.options(name=task_name(step, "place")).remote()
        return Slot(actor=actor, need=need, where=where, placing=placing)


class Pool:
    """The workers of one step of a chain."""

    def __init__(self, step: ShardStep, starter: Starter) -> None:
        self.step = step
        self.slots: list[Slot] = []
        self.is_open = False
        self.was_enough = False
        """Whether it ever had what it needs at least."""
        self.sight = PoolSight()
        self._without: Counter[str | None] = Counter()
        self._starter = starter
        self._past: deque[float] = deque(maxlen=_PAST_SHARDS)

    @property
    def num_placed(self) -> int:
        """Workers that have their place."""
        return sum(slot.placing is None for slot in self.slots)

    def resize(self, places: Places, spare: list[Slot], *, living: Collection[str]) -> None:
        """Have as many workers as there are places: take over spare ones of the same needs, ask
        for others, and let go of those that are too many and have nothing in hand, first of those
        whose nodes are not `living`."""
        for where in {slot.where for slot in self.slots} | places.keys():
            here = [slot for slot in self.slots if slot.where == where]
            wanted = max(0, places.get(where, 0) - self._without[where])
            for _ in range(wanted - len(here)):
                self.slots.append(self._take_over(where, spare) or self._start(where))
            idle = sorted(
                (slot for slot in here if not slot.inflight),
                key=lambda s: s.is_ready and s.facts is not None and s.facts.node in living,
            )
            for slot in idle[: max(0, len(here) - wanted)]:
                self.remove(slot)
        if not self.slots:
            self._without.clear()

    def open(self) -> None:
        """Have every worker load what shards need; before the first that needs it."""
        self.is_open = True
        for slot in self.slots:
            self._open(slot)

    def replace(self, slot: Slot, *, failed_starts: int = 0, wait_s: float = 0.0) -> None:
        """Ask for another worker in the place of one that is lost, to open after a while."""
        self.remove(slot)
        if slot.where is None or is_alive(slot.where):
            new = self._start(slot.where, wait_s)
            new.failed_starts, new.lineage = failed_starts, slot.lineage
            self.slots.append(new)

    def do_without(self, slot: Slot) -> None:
        """Let go of a worker, and ask for no other in its place."""
        self._without[slot.where] += 1
        self.remove(slot)

    def remove(self, slot: Slot) -> None:
        """Let go of a worker."""
        kill(slot)
        self.slots.remove(slot)

    def give(self, slot: Slot, shard_id: int) -> None:
        """Give a ready worker a shard."""
        if not slot.inflight:
            slot.began = time.monotonic()
        name = task_name(self.step, f"run shard {shard_id}")
        ref = slot.actor.run.options(name=name).remote(shard_id)
        slot.inflight.append(Attempt(shard_id, ref))

    def ended(self, slot: Slot, *, is_done: bool) -> Attempt:
        """Take back the first shard that a worker had in hand."""
        now = time.monotonic()
        if is_done and self.is_open:
            self._past.append(now - slot.began)
        slot.began = now
        return slot.inflight.popleft()

    def take_queued(self) -> int | None:
        """Take back a shard that waits behind a busy worker and is not begun, for an idle one."""
        for slot in self.slots:
            if len(slot.inflight) > 1 and not ray.wait([slot.inflight[0].ref], timeout=0)[0]:
                attempt = slot.inflight.pop()
                ray.cancel(attempt.ref)
                return attempt.shard_id
        return None

    def overdue(self, running: Mapping[int, int]) -> int | None:
        """A shard that has long been at work, where the step allows a second attempt.

        Args:
            running: How many attempts at each shard are under way.
        """
        if not may_repeat(self.step) or len(self._past) < _FEWEST_PAST:
            return None
        usual_s = sorted(self._past)[int(len(self._past) * 0.95)]
        began = time.monotonic() - max(_SOONEST_S, _OVERDUE * usual_s)
        for slot in sorted((s for s in self.slots if s.inflight), key=lambda slot: slot.began):
            shard_id = slot.inflight[0].shard_id
            if slot.began < began and running.get(shard_id) == 1:
                return shard_id
        return None

    def look(self, passed_s: float) -> None:
        """Bring `sight` up to date."""
        ready = [slot for slot in self.slots if slot.is_ready]
        busy = sum(bool(slot.inflight) for slot in ready)
        self.sight.busy_s += busy * passed_s
        self.sight.idle_s += (len(ready) - busy) * passed_s
        self.sight.pending = sum(slot.placing is not None for slot in self.slots)
        self.sight.hosts = Counter(slot.facts.host for slot in self.slots if slot.facts)
        self.sight.rows_in_hand = sum(slot.rows_done for slot in self.slots if slot.inflight)

    def leave(self) -> Iterator[Slot]:
        """The step has ended: its idle workers free what they hold, and keep their places."""
        for slot in self.slots:
            if slot.is_idle:
                slot.opening = slot.actor.close.remote()
                yield slot
            else:
                kill(slot)
        self.slots = []

    def _start(self, where: str | None, wait_s: float = 0.0) -> Slot:
        slot = self._starter.start(self.step, where)
        if self.is_open:
            self._open(slot, wait_s)
        return slot

    def _take_over(self, where: str | None, spare: list[Slot]) -> Slot | None:
        need = self.step.resources
        for slot in spare:
            if (slot.need.num_cpus, slot.need.num_gpus) != (need.num_cpus, need.num_gpus):
                continue
            assert slot.facts is not None
            if slot.facts.node in self._starter.avoid:
                continue
            if where is None or slot.facts.node == where:
                spare.remove(slot)
                slot.where, slot.need, slot.beaten = where, need, time.monotonic()
                slot.opening = slot.actor.become.remote(self.step)
                if self.is_open:
                    self._open(slot)
                return slot
        return None

    def _open(self, slot: Slot, wait_s: float = 0.0) -> None:
        slot.opening = slot.actor.open.options(name=task_name(self.step, "open")).remote(wait_s)
