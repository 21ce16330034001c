"""The Ray runner: a pool of actors a step, shards in flight, a loop over `ray.wait`."""

import os
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

from pipelines.engine.chain import Chain, EngineError
from pipelines.run.manifest import Manifest
from pipelines.steps.step import ShardStep
from sd_core.errors import EnvironmentFault, FoundryError, environment_told, is_environment
from sd_core.redacted_output import redacted_output
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


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """Where an actor runs, as it sees it."""

    step: str
    pid: int
    cuda_visible_devices: str | None


class ShardWorker:
    """A Ray actor that owns one opened step; it takes shard ids and returns manifests."""

    def __init__(self, step: ShardStep) -> None:
        self._step = step

    def open(self) -> WorkerFacts:
        """Load the step's weights; says where the worker runs."""
        with redacted_output(), environment_told():
            self._step.open()
        return WorkerFacts(
            step=self._step.name,
            pid=os.getpid(),
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )

    def run(self, shard_id: int) -> Manifest:
        """Turn one shard into committed files."""
        with redacted_output(), environment_told():
            return self._step.run(shard_id)

    def close(self) -> None:
        """Free the step, before the actor is let go."""
        self._step.close()


@dataclass
class _Slot:
    actor: Any
    opening: Any  # the ref of `open`, None once it has answered
    inflight: deque[tuple[int, Any]] = field(default_factory=deque)


class _Pool:
    def __init__(self, step: ShardStep) -> None:
        self.step = step
        self._actor_class = _remote_class(step)
        self.slots = [self._start() for _ in range(step.resources.num_workers)]
        self.failed_opens = 0

    def _start(self) -> _Slot:
        actor = self._actor_class.remote(self.step)
        return _Slot(actor=actor, opening=actor.open.remote())

    def replace(self, slot: _Slot) -> None:
        _kill(slot.actor)
        fresh = self._start()
        slot.actor, slot.opening, slot.inflight = fresh.actor, fresh.opening, deque()

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

    def run(self, chain: Chain, *, shards_ahead: int, check: Callable[[], None]) -> None:
        """Run a chain to its end.

        Args:
            chain: The steps and what they owe.
            shards_ahead: Shards a step may run ahead of the next, for each worker of the next.
            check: Called about once a second; raises to stop the job.

        Raises:
            EngineError: workers cannot be started.
        """
        if chain.is_done:
            return
        needed = [state for state in chain.states if state.done < chain.num_shards]
        pools = {
            index: _Pool(state.step) for index, state in enumerate(chain.states) if state in needed
        }
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
                slot.inflight.append((shard_id, slot.actor.run.remote(shard_id)))

    def _collect(self, chain: Chain, pools: dict[int, _Pool]) -> None:
        owners: dict[Any, tuple[int, _Pool, _Slot]] = {}
        for index, pool in pools.items():
            for slot in pool.slots:
                # A worker takes its shards in order: only the first can have ended.
                ref = slot.opening or (slot.inflight[0][1] if slot.inflight else None)
                if ref is not None:
                    owners[ref] = (index, pool, slot)
        if not owners:
            raise EngineError("no worker has anything to do and the job is not done")
        ready, _ = ray.wait(list(owners), num_returns=1, timeout=1.0)
        for ref in ready:
            index, pool, slot = owners[ref]
            if ref is slot.opening:
                self._opened(pool, slot, ref)
            else:
                self._ended(chain, index, pool, slot)

    def _opened(self, pool: _Pool, slot: _Slot, ref: Any) -> None:
        try:
            facts: WorkerFacts = ray.get(ref)
        except _INFRASTRUCTURE as error:
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
            kind = EnvironmentFault if is_environment(cause) else EngineError
            raise kind(
                f"{pool.step.name}: a worker could not start: {_cause_line(error)}"
            ) from error
        pool.failed_opens = 0
        slot.opening = None
        gpu = facts.cuda_visible_devices
        where = f"GPU {gpu}" if pool.step.resources.num_gpus and gpu else "CPU"
        self._say(f"{facts.step}: worker {facts.pid} is ready ({where})")

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
        chain.interrupted(index, shard_id, _first_line(error))
        pool.replace(slot)


def _remote_class(step: ShardStep) -> Any:
    # A class of the step's own name, so that `ps` and Ray's dashboard show which worker is which.
    named = type(f"{step.name.capitalize()}Worker", (ShardWorker,), {})
    resources = step.resources
    return ray.remote(num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_restarts=0)(
        named
    )


def _kill(actor: Any) -> None:
    ray.kill(actor, no_restart=True)


def _is_infrastructure(error: BaseException) -> bool:
    cause = getattr(error, "cause", None)
    return isinstance(error, _INFRASTRUCTURE) or isinstance(cause, _INFRASTRUCTURE)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _cause(error: RayTaskError) -> BaseException:
    return error.cause if isinstance(error.cause, BaseException) else error


def _cause_line(error: RayTaskError) -> str:
    cause = _cause(error)
    named = isinstance(cause, EnvironmentFault)  # by `environment_told`
    return str(cause) if named else f"{type(cause).__name__}: {cause}"
