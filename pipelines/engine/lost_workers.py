"""What is done about workers that die, fall silent, cannot start or raise."""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from ray.exceptions import RayTaskError

from pipelines.engine import ray_faults
from pipelines.engine.chain import Chain, EngineError
from pipelines.engine.nodes import NodeHealth
from pipelines.engine.pool import Pool, Starter
from pipelines.engine.ray_faults import (
    cause_line,
    cause_of,
    first_line,
    is_of_the_node,
    is_unheard,
    is_unplaced,
)
from pipelines.engine.slot import Slot
from sd_core.errors import EnvironmentFault, FoundryError, is_no_shards_fault
from sd_core.say import Say

_FAILED_STARTS = 5
_LONGEST_WAIT_S = 30.0
_JUDGED_AFTER_S = 5.0
"""A node may be known to be lost only after its workers."""
_UNHEARD_S = 40.0
"""So long Ray may take to notice that a node is gone which does not say so."""


@dataclass(frozen=True)
class _Death:
    """A worker died with a shard in hand; whose fault it was is still open."""

    index: int
    shard_id: int
    slot: Slot
    told: str
    until: float


class LostWorkers:
    """Charges what happened to whom it is due: a shard, a worker, a node, or nobody.

    Args:
        chain: Of the shards.
        pools: By the number of their step.
        starter: Told of nodes to avoid.
        health: Of the nodes, over the whole job.
    """

    def __init__(
        self,
        chain: Chain,
        pools: Mapping[int, Pool],
        starter: Starter,
        health: NodeHealth,
        *,
        say: Say,
    ) -> None:
        self._chain, self._pools = chain, pools
        self._starter, self._health = starter, health
        self._say = say
        self._deaths: list[_Death] = []

    def gone(self, index: int, pool: Pool, slot: Slot, error: BaseException) -> None:
        """A worker is gone, or silent: others take what it had in hand."""
        if slot not in pool.slots:
            return
        shards = [each.shard_id for each in slot.inflight]
        first = shards[0] if shards else None
        for waiting in reversed(shards[1:]):
            self._chain.returned(index, waiting)
        pool.replace(slot)
        if is_of_the_node(error, slot.facts):
            if first is not None:
                self._of_the_node(index, first)
            return
        told = first_line(error)
        if first is None:
            self._say(f"{pool.step.name}: a worker is lost and replaced: {told}")
            self._node_failed(pool, slot, told, what=slot.lineage)
        else:
            until = time.monotonic() + (_UNHEARD_S if is_unheard(error) else _JUDGED_AFTER_S)
            self._deaths.append(_Death(index, first, slot, told, until))

    def judge(self) -> None:
        """Charge the deaths of workers whose nodes have outlived them; the others cost nothing."""
        living = ray_faults.living_ids() if self._deaths else ()
        for death in list(self._deaths):
            if (slot := death.slot).facts and slot.facts.node not in living:
                self._deaths.remove(death)
                self._of_the_node(death.index, death.shard_id)
            elif time.monotonic() >= death.until:
                self._deaths.remove(death)
                self._chain.interrupted(death.index, death.shard_id, death.told)
                pool = self._pools[death.index]
                self._node_failed(pool, slot, death.told, what=death.shard_id)

    def _of_the_node(self, index: int, shard_id: int) -> None:
        self._chain.returned(index, shard_id)
        name = self._chain.states[index].step.name
        self._say(f"{name} shard {shard_id}: its node was lost, which costs no try")

    def raised(self, index: int, pool: Pool, slot: Slot, error: RayTaskError) -> None:
        """A shard's work raised; where its disk or its store is at fault, the worker waits too."""
        shard_id = pool.ended(slot, is_done=False).shard_id
        cause = cause_of(error)
        self._chain.failed(index, shard_id, cause_line(error), cause=cause)
        if is_no_shards_fault(cause):
            slot.not_before = time.monotonic() + self._chain.patience.wait_for((index, shard_id))
            self._node_failed(pool, slot, cause_line(error), what=shard_id)

    def started(self, pool: Pool, slot: Slot) -> None:
        """A worker is ready."""
        slot.failed_starts = 0
        self._chain.patience.forget((pool.step.name, slot.lineage))

    def died_starting(self, pool: Pool, slot: Slot, error: BaseException) -> None:
        """A worker was gone before it was ready: with its node at no charge."""
        if is_of_the_node(error, slot.facts) or is_unplaced(error):
            if slot.where is None:
                pool.replace(slot)
            else:
                pool.remove(slot)  # the next look asks for it elsewhere
            return
        failed = slot.failed_starts + 1
        told = f"{pool.step.name}: a worker died while it started: {first_line(error)}"
        self._node_failed(pool, slot, told, what=slot.lineage)
        if slot not in pool.slots:
            return
        if failed < _FAILED_STARTS:
            self._say(f"{told}; replaced, try {failed + 1} of {_FAILED_STARTS}")
            pool.replace(slot, failed_starts=failed, wait_s=min(_LONGEST_WAIT_S, 2.0**failed))
        else:
            self._give_up(pool, slot, f"{told}, {failed} times in a row", error)

    def raised_starting(self, pool: Pool, slot: Slot, error: RayTaskError) -> None:
        """A worker could not load what it needs."""
        cause = cause_of(error)
        if isinstance(cause, FoundryError) and type(cause) is not EnvironmentFault:
            raise cause from None  # as where the step is opened in this process
        told = f"{pool.step.name}: a worker could not start: {cause_line(error)}"
        if not is_no_shards_fault(cause):
            raise EngineError(told) from error
        self._node_failed(pool, slot, told, what=slot.lineage)
        if slot not in pool.slots:
            return
        try:
            work = (pool.step.name, slot.lineage)
            wait_s = self._chain.patience.bear(work, told=told, cause=error)
        except EnvironmentFault as fault:
            self._give_up(pool, slot, told, fault)
            return
        self._say(f"{told}; tried again in {wait_s:.0f} s")
        pool.replace(slot, wait_s=wait_s)

    def _give_up(self, pool: Pool, slot: Slot, told: str, error: BaseException) -> None:
        """Do without one worker; raises where there is no other."""
        if all(other is slot or other.placing is not None for other in pool.slots):
            if isinstance(error, EnvironmentFault):
                raise error
            raise EngineError(told) from error
        self._say(f"{told}; the job goes on without it")
        pool.do_without(slot)

    def _node_failed(self, pool: Pool, slot: Slot, told: str, *, what: Hashable) -> None:
        """Leave a node alone where all fails on it while others work."""
        if slot.facts is None or slot.facts.node in self._starter.avoid:
            return
        failures = self._health.failed(pool.step.name, slot.facts.node, what)
        if not failures:
            return
        self._starter.avoid.add(slot.facts.node)
        self._say(
            f"node {slot.facts.host} ({slot.facts.node[:8]}): {failures} failures in a row while "
            f"other nodes work: this job leaves it alone; the last one: {told}"
        )
        for index, pool in self._pools.items():
            for other in [each for each in pool.slots if each.is_on(slot.facts.node)]:
                for attempt in reversed(other.inflight):
                    self._chain.returned(index, attempt.shard_id)
                pool.remove(other)
