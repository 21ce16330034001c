"""Which workers wait for which, told once, with what would change it."""

import time
from collections.abc import Mapping

from pipelines.engine.chain import Chain
from pipelines.engine.pool import Pool
from sd_core.say import Say

_WINDOW_S = 60.0
_WHOLE = 0.95  # of it, that a worker was ready
_MUCH = 0.5


class Balance:
    """Watches how busy the workers of a chain's steps are.

    Args:
        chain: What is owed.
        pools: By the number of their step.
    """

    def __init__(self, chain: Chain, pools: Mapping[int, Pool], *, say: Say) -> None:
        self._chain, self._pools, self._say = chain, pools, say
        self._last = self._began = time.monotonic()
        self._seen: dict[int, tuple[float, float]] = {}
        self._told: set[int] = set()

    def tick(self) -> None:
        """Count the time since the last call, and say what waits where it waits much."""
        now = time.monotonic()
        for pool in self._pools.values():
            pool.look(now - self._last)
        self._last = now
        if now - self._began >= _WINDOW_S:
            self._began = now
            self._tell()

    def _tell(self) -> None:
        idle: dict[int, float] = {}
        for index, pool in self._pools.items():
            before = self._seen.get(index, (0.0, 0.0))
            now = self._seen[index] = (pool.sight.busy_s, pool.sight.idle_s)
            busy_s, idle_s = (after - ago for after, ago in zip(now, before, strict=True))
            if busy_s + idle_s >= _WINDOW_S * _WHOLE:
                idle[index] = idle_s / (busy_s + idle_s)
        for index in self._pools:
            after = self._pools.get(index + 1)
            if after is None or index in self._told or not {index, index + 1} <= idle.keys():
                continue
            first, then = self._pools[index].step.name, after.step.name
            if idle[index + 1] >= _MUCH > idle[index] and self._chain.states[index].ready:
                self._told.add(index)
                self._say(
                    f"{then}: its workers waited {idle[index + 1]:.0%} of the last minute for "
                    f"{first}; {_more(first)} would feed them"
                )
            elif idle[index] >= _MUCH > idle[index + 1] and self._chain.states[index].ready:
                self._told.add(index)
                self._say(
                    f"{first}: its workers waited {idle[index]:.0%} of the last minute for {then}; "
                    f"{_more(then)} would end the job sooner"
                )


def _more(step: str) -> str:
    if step == "download":
        return "more engine.download_workers, or more download.threads in each,"
    return "more model workers (engine.gpus, or engine.cpu_model_workers without GPUs)"
