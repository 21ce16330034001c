"""The Ray runner: a pool of workers for each step, shards in flight, a loop over `ray.wait`."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipelines.engine.balance import Balance
from pipelines.engine.chain import Chain
from pipelines.engine.lost_workers import LostWorkers
from pipelines.engine.nodes import NodeHealth
from pipelines.engine.pool import Pool, Starter
from pipelines.engine.ray_faults import INFRASTRUCTURE, is_infrastructure
from pipelines.engine.shard_worker import WorkerFacts
from pipelines.engine.sight import RunnerSight
from pipelines.engine.slot import Slot, close
from pipelines.engine.supply import able_nodes, living_nodes, places_for
from pipelines.engine.waiting import Waiting
from pipelines.steps.step import ShardStep, is_light
from sd_core.say import Say

_SHARDS_IN_FLIGHT = 2  # one at work, one waiting, so that a worker never idles on the driver
_PATIENT_LOOKS = 3
_LONGEST_LOOP_S = 0.25
_LOOK_EVERY_S = 5.0  # at the cluster's nodes, and for signs of life


class RayRunner:
    """Runs chains on the connected Ray cluster, and keeps its workers' places between them.

    Args:
        name: Of the job, as it is shown to other jobs on the cluster.
        wait_s: How long the job waits for workers, see `Waiting`.
        heartbeat_s: After so long without a sign of life a worker is replaced.
        sight: Shown how the job is.

    Attributes:
        pools: Those of the chain that runs, by the number of their step.
    """

    def __init__(
        self, *, name: str, wait_s: float, heartbeat_s: float, sight: RunnerSight, say: Say
    ) -> None:
        self.pools: dict[int, Pool] = {}
        self._say = say
        self._heartbeat_s = heartbeat_s
        self._sight = sight
        self._starter = Starter(name)
        self._health = NodeHealth()
        self._waiting = Waiting(wait_s, say=say)
        self._spare: list[Slot] = []
        self._looks_without = 0

    def run(self, chain: Chain, *, shards_ahead: int, check: Callable[[], None]) -> None:
        """Run a chain to its end.

        Args:
            chain: The steps and what they owe.
            shards_ahead: Shards that may be finished and not yet taken by the step after, for each
                of its workers.
            check: Called a few times a second; raises to stop the job.

        Raises:
            EngineError: workers cannot be started.
            EnvironmentFault: storage fails for too long, or there is no worker for too long.
        """
        self.pools = {
            index: Pool(state.step, self._starter)
            for index, state in enumerate(chain.states)
            if state.done < chain.num_shards
        }
        on_trouble = self._sight.on_trouble(self._say)
        lost = LostWorkers(chain, self.pools, self._starter, self._health, say=on_trouble)
        balance = Balance(chain, self.pools, say=self._say)
        looked = 0.0
        try:
            while not chain.is_done:
                check()
                balance.tick()
                self._sight.look(chain, self.pools, waits_for=self._waiting.told)
                lost.judge()
                if time.monotonic() - looked >= _LOOK_EVERY_S:
                    looked = time.monotonic()
                    self._look(chain, lost)
                for index, pool in self.pools.items():
                    after = self.pools.get(index + 1)
                    ahead = None if after is None else shards_ahead * max(1, after.num_placed)
                    self._dispatch(chain, index, pool, ahead)
                self._collect(chain, lost)
        finally:
            self._sight.ended()
            for pool in self.pools.values():
                self._spare += pool.leave()

    def close(self) -> None:
        """Let all workers go."""
        close(self._spare, timeout_s=10)
        self._spare = []

    def _look(self, chain: Chain, lost: LostWorkers) -> None:
        """Ask for workers on nodes that came, and replace those that give no sign of life."""
        nodes, avoid = living_nodes(), self._starter.avoid
        living = {node.id for node in nodes}
        owing = {
            index: pool
            for index, pool in self.pools.items()
            if chain.states[index].done < chain.num_shards
        }
        for index, pool in self.pools.items():
            if index not in owing:
                pool.resize({}, self._spare, living=living)
        # Who has a GPU has the CPU beside it, before downloads take it.
        for index, pool in sorted(owing.items(), key=lambda at: -at[1].step.resources.num_gpus):
            need = pool.step.resources
            able = able_nodes(need, nodes)
            if able <= avoid:
                avoid -= able  # there are no others
            beside = [other.step.resources for at, other in owing.items() if at != index]
            places = places_for(need, beside, nodes, avoid=avoid)
            pool.resize(places, self._spare, living=living)
        self._release(list(owing.values()))
        self._waiting.look(list(owing.values()), nodes)
        for index, pool in self.pools.items():
            for slot in list(pool.slots):
                if (error := slot.silence(self._heartbeat_s)) is not None:
                    lost.gone(index, pool, slot, error)

    def _release(self, owing: Sequence[Pool]) -> None:
        """Spare workers go: those without a GPU, and the others where places are long wanted."""
        is_without = any(pool.slots and not pool.num_placed for pool in owing)
        self._looks_without = self._looks_without + 1 if is_without else 0
        is_wanted = self._looks_without > _PATIENT_LOOKS
        going = [slot for slot in self._spare if is_wanted or not slot.need.num_gpus]
        self._spare = [slot for slot in self._spare if slot not in going]
        close(going, timeout_s=0)

    def _dispatch(self, chain: Chain, index: int, pool: Pool, ahead: int | None) -> None:
        ready, now = chain.states[index].ready, time.monotonic()
        for depth in range(1, _SHARDS_IN_FLIGHT + 1):
            # Near its end a step queues no shard behind a busy worker.
            if depth > 1 and len(ready) <= len(pool.slots):
                return
            for slot in pool.slots:
                if not slot.is_ready or len(slot.inflight) >= depth or slot.not_before > now:
                    continue
                shard_id = chain.next_shard(index, max_ahead=ahead)
                if shard_id is None:
                    if not ready:
                        self._share(chain, index, pool)
                    return
                if not pool.is_open and not _is_light(pool.step, shard_id):
                    chain.returned(index, shard_id)
                    pool.open()
                    return
                pool.give(slot, shard_id)

    def _share(self, chain: Chain, index: int, pool: Pool) -> None:
        """No shard is left to begin: idle workers take those that wait behind busy ones, and have
        a second try at one that takes far longer than usual."""
        for slot in pool.slots:
            if not slot.is_idle or slot.not_before > time.monotonic():
                continue
            if (queued := pool.take_queued()) is not None:
                pool.give(slot, queued)
            elif (overdue := pool.overdue(chain.states[index].running)) is not None:
                told = f"{pool.step.name} shard {overdue}"
                self._say(f"{told}: takes far longer than others; a second worker tries it as well")
                chain.again(index, overdue)
                pool.give(slot, overdue)
            else:
                return

    def _collect(self, chain: Chain, lost: LostWorkers) -> None:
        owners: dict[Any, tuple[int, Pool, Slot]] = {}
        for index, pool in self.pools.items():
            for slot in pool.slots:
                # A worker takes all in order, a light shard before it opens, so only the first of
                # its shards can have ended.
                first = slot.inflight[0].ref if slot.inflight else None
                ref = slot.placing or first or slot.opening
                if ref is not None:
                    owners[ref] = (index, pool, slot)
        if not owners:
            time.sleep(0.1)  # a shard or a worker waits after a fault of a disk or a store
            return
        ready, others = ray.wait(list(owners), num_returns=1, timeout=_LONGEST_LOOP_S)
        if ready and others:
            ready += ray.wait(others, num_returns=len(others), timeout=0)[0]
        for ref in ready:
            index, pool, slot = owners[ref]
            if slot not in pool.slots:  # it went with its node, by one before it
                continue
            if ref is slot.placing or ref is slot.opening:
                self._opened(pool, slot, ref, lost)
            else:
                self._ended(chain, index, pool, slot, lost)

    def _opened(self, pool: Pool, slot: Slot, ref: Any, lost: LostWorkers) -> None:
        try:
            found: WorkerFacts | str | None = ray.get(ref)
        except INFRASTRUCTURE as error:
            lost.died_starting(pool, slot, error)
            return
        except RayTaskError as error:
            lost.raised_starting(pool, slot, error)
            return
        if isinstance(found, WorkerFacts):
            slot.facts, slot.placing = found, None
            return
        slot.opening = None
        if found is not None:
            lost.started(pool, slot)
            self._sight.began(pool.step.name)
            self._say(f"{pool.step.name}: {slot.describe(device=found)}")

    def _ended(self, chain: Chain, index: int, pool: Pool, slot: Slot, lost: LostWorkers) -> None:
        try:
            manifest = ray.get(slot.inflight[0].ref)
        except Exception as error:
            if is_infrastructure(error):
                lost.gone(index, pool, slot, error)
            elif isinstance(error, RayTaskError):
                lost.raised(index, pool, slot, error)
            else:
                raise
            return
        assert slot.facts is not None
        self._health.succeeded(pool.step.name, slot.facts.node)
        self._sight.metrics.shard_took(pool.step.name, time.monotonic() - slot.began)
        chain.finished(index, pool.ended(slot, is_done=True).shard_id, manifest)


def _is_light(step: ShardStep, shard_id: int) -> bool:
    try:
        return is_light(step, shard_id)
    except Exception:  # the worker meets it as well, and it is counted there
        return False
