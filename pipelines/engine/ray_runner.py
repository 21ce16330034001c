"""The Ray runner: a pool of actors a step, shards in flight, a loop over `ray.wait`."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from pipelines.engine.chain import Chain, EngineError, ResourcesError
from pipelines.engine.shard_worker import WorkerFacts, worker_class
from pipelines.steps.step import ShardStep, is_light
from sd_core.errors import EnvironmentFault, FoundryError, is_no_shards_fault
from sd_core.say import Say

_INFRASTRUCTURE = (
    RayActorError,
    ActorUnavailableError,
    WorkerCrashedError,
    OutOfMemoryError,
    NodeDiedError,
    ObjectLostError,
)
_SHARDS_IN_FLIGHT = 2  # one at work, one waiting, so that a worker never idles on the driver
_FAILED_OPENS = 5
_NO_WORKER_S = 600.0
"""So long may a cluster take to start any worker at all, as one whose nodes were preempted."""


@dataclass(eq=False)
class _Slot:
    actor: Any
    placing: Any  # the ref of `place`, None once it has answered
    opening: Any  # that of `open`, None once it has answered, or while nothing needs it
    facts: WorkerFacts | None = None
    inflight: deque[tuple[int, Any]] = field(default_factory=deque)


class _Pool:
    def __init__(self, step: ShardStep) -> None:
        self.step = step
        self._actor_class = worker_class(step)
        self.is_open = False
        self.slots = [self._start() for _ in range(step.resources.num_workers)]
        self.failed_opens = 0

    def _start(self) -> _Slot:
        actor = self._actor_class.remote(self.step)
        opening = actor.open.remote() if self.is_open else None
        return _Slot(actor=actor, placing=actor.place.remote(), opening=opening)

    def open(self) -> None:
        """Have every worker load what shards need; before the first that needs it."""
        self.is_open = True
        for slot in self.slots:
            slot.opening = slot.actor.open.remote()

    def replace(self, slot: _Slot) -> None:
        _kill(slot.actor)
        self.slots[self.slots.index(slot)] = self._start()

    def stop(self) -> None:
        # One that is at work would come to it only after its shard.
        idle = [slot for slot in self.slots if slot.opening is None and not slot.inflight]
        closing = [slot.actor.close.remote() for slot in idle]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=10)
        for slot in self.slots:
            _kill(slot.actor)


class RayRunner:
    """Runs chains on the connected Ray cluster."""

    def __init__(self, *, say: Say) -> None:
        self._say = say
        self._deaths: dict[tuple[int, int], list[str]] = {}  # by step and shard, on which nodes
        self._started = 0.0  # when a worker last was

    def run(self, chain: Chain, *, shards_ahead: int, check: Callable[[], None]) -> None:
        """Run a chain to its end.

        Args:
            chain: The steps and what they owe.
            shards_ahead: Shards a step may run ahead of the next, for each worker of the next.
            check: Called about once a second; raises to stop the job.

        Raises:
            EngineError: workers cannot be started.
            EnvironmentFault: storage fails for too long, or the cluster starts no worker at all.
        """
        if chain.is_done:
            return
        needed = [state for state in chain.states if state.done < chain.num_shards]
        pools = {
            index: _Pool(state.step) for index, state in enumerate(chain.states) if state in needed
        }
        self._started = time.monotonic()
        try:
            while not chain.is_done:
                check()
                for index, pool in pools.items():
                    after = pools.get(index + 1)
                    ahead = len(after.slots) * shards_ahead if after else None
                    self._dispatch(chain, index, pool, ahead)
                self._collect(chain, pools)
        finally:
            for pool in pools.values():
                pool.stop()

    def _dispatch(self, chain: Chain, index: int, pool: _Pool, ahead: int | None) -> None:
        for depth in range(1, _SHARDS_IN_FLIGHT + 1):
            for slot in pool.slots:
                if slot.opening is not None or len(slot.inflight) >= depth:
                    continue
                shard_id = chain.next_shard(index, max_ahead=ahead)
                if shard_id is None:
                    return
                if not pool.is_open and not _is_light(pool.step, shard_id):
                    chain.returned(index, shard_id)
                    pool.open()
                    return
                slot.inflight.append((shard_id, slot.actor.run.remote(shard_id)))

    def _collect(self, chain: Chain, pools: dict[int, _Pool]) -> None:
        owners: dict[Any, tuple[int, _Pool, _Slot]] = {}
        for index, pool in pools.items():
            for slot in pool.slots:
                # A worker takes its shards in order: only the first can have ended.
                first = slot.inflight[0][1] if slot.inflight else None
                ref = slot.placing or slot.opening or first
                if ref is not None:
                    owners[ref] = (index, pool, slot)
        self._check_started(pools)
        if not owners and chain.patience.wait_s:
            time.sleep(min(1.0, chain.patience.wait_s))
            return
        if not owners:
            raise EngineError("no worker has anything to do and the job is not done")
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=1.0)
        for ref in ready:
            index, pool, slot = owners[ref]
            if ref is slot.placing or ref is slot.opening:
                self._opened(chain, pool, slot, ref)
            else:
                self._ended(chain, index, pool, slot)

    def _check_started(self, pools: dict[int, _Pool]) -> None:
        """Raise `ResourcesError` where no worker of any pool has been placed for too long."""
        if any(slot.placing is None for pool in pools.values() for slot in pool.slots):
            self._started = time.monotonic()
        elif time.monotonic() - self._started > _NO_WORKER_S:
            has = ray.cluster_resources()
            raise ResourcesError(
                f"the cluster has started no worker for {_NO_WORKER_S:.0f} s; it has "
                f"{has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU: see that its nodes run"
            )

    def _opened(self, chain: Chain, pool: _Pool, slot: _Slot, ref: Any) -> None:
        try:
            found: WorkerFacts | None = ray.get(ref)
        except _INFRASTRUCTURE as error:
            if _is_of_the_node(error, slot.facts):
                pool.replace(slot)
                return
            pool.failed_opens += 1
            if pool.failed_opens >= _FAILED_OPENS:
                raise EngineError(
                    f"{pool.step.name}: {_FAILED_OPENS} workers in a row died while starting: "
                    f"{_first_line(error)}"
                ) from error
            time.sleep(min(30.0, 2.0**pool.failed_opens))
            pool.replace(slot)
            return
        except RayTaskError as error:
            cause = _cause(error)
            if isinstance(cause, FoundryError) and type(cause) is not EnvironmentFault:
                raise cause from None  # as where the step is opened in this process
            told = f"{pool.step.name}: a worker could not start: {_cause_line(error)}"
            if not is_no_shards_fault(cause):
                raise EngineError(told) from error
            wait_s = chain.patience.bear(pool.step.name, told=told, cause=error)
            self._say(f"{told}; tried again in {wait_s:.0f} s")
            time.sleep(wait_s)
            pool.replace(slot)
            return
        if found is not None:
            slot.facts, slot.placing = found, None
            return
        pool.failed_opens = 0
        chain.patience.forget(pool.step.name)
        slot.opening = None
        assert slot.facts is not None
        gpu = slot.facts.cuda_visible_devices
        where = f"GPU {gpu}" if pool.step.resources.num_gpus and gpu else "CPU"
        self._say(f"{pool.step.name}: worker {slot.facts.pid} is ready ({where})")

    def _ended(self, chain: Chain, index: int, pool: _Pool, slot: _Slot) -> None:
        shard_id, ref = slot.inflight[0]
        try:
            manifest = ray.get(ref)
        except Exception as error:
            if _is_infrastructure(error):
                self._lost(chain, index, pool, slot, error)
                return
            if not isinstance(error, RayTaskError):
                raise
            slot.inflight.popleft()
            chain.failed(index, shard_id, _cause_line(error), cause=_cause(error))
            return
        slot.inflight.popleft()
        chain.finished(index, shard_id, manifest)

    def _lost(
        self, chain: Chain, index: int, pool: _Pool, slot: _Slot, error: BaseException
    ) -> None:
        (shard_id, _), *queued = slot.inflight
        for waiting, _ref in reversed(queued):
            chain.returned(index, waiting)
        pool.replace(slot)
        if _is_of_the_node(error, slot.facts):
            chain.returned(index, shard_id)
            self._say(f"{pool.step.name} shard {shard_id}: its node was lost, which costs no try")
            return
        # A node may be known to be lost only after its workers.
        deaths = self._deaths.setdefault((index, shard_id), [])
        for node in [node for node in deaths if not _is_alive(node)]:
            deaths.remove(node)
            chain.forgive(index, shard_id)
        if slot.facts is not None:
            deaths.append(slot.facts.node)
        chain.interrupted(index, shard_id, _first_line(error))


def _is_light(step: ShardStep, shard_id: int) -> bool:
    try:
        return is_light(step, shard_id)
    except (FoundryError, OSError):  # the worker meets it as well, and it is counted there
        return False


def _kill(actor: Any) -> None:
    ray.kill(actor, no_restart=True)


def _is_infrastructure(error: BaseException) -> bool:
    cause = getattr(error, "cause", None)
    return isinstance(error, _INFRASTRUCTURE) or isinstance(cause, _INFRASTRUCTURE)


def _is_of_the_node(error: BaseException, worker: WorkerFacts | None) -> bool:
    """Whether a worker was lost with its node, or to make room on it."""
    causes = (error, getattr(error, "cause", None))
    if any(isinstance(e, NodeDiedError) or getattr(e, "preempted", False) for e in causes):
        return True
    return worker is not None and not _is_alive(worker.node)


def _is_alive(node: str) -> bool:
    return any(each["NodeID"] == node and each["Alive"] for each in ray.nodes())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _cause(error: RayTaskError) -> BaseException:
    return error.cause if isinstance(error.cause, BaseException) else error


def _cause_line(error: RayTaskError) -> str:
    cause = _cause(error)
    named = isinstance(cause, EnvironmentFault)  # by `environment_told`
    return str(cause) if named else f"{type(cause).__name__}: {cause}"
