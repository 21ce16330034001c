"""How long a job bears with an environment that fails: it waits, longer each time, then ends."""

import time
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

from sd_core.errors import EnvironmentFault, is_no_shards_fault
from sd_core.faults import describe_fault
from sd_core.say import Say

ResultT = TypeVar("ResultT")
_FIRST_WAIT_S = 1.0


class Patience:
    """The waits of one job, by the piece of work that cannot go on.

    Args:
        total_s: After this long one piece of work is not tried again; 0 for never.
    """

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._ends: dict[Hashable, float] = {}
        self._times: Counter[Hashable] = Counter()
        self._due: dict[Hashable, float] = {}

    @property
    def wait_s(self) -> float:
        """How long the last piece of work that failed is to wait; 0 where all may go on."""
        return max(map(self.wait_for, self._due), default=0.0)

    def wait_for(self, work: Hashable) -> float:
        """How long a piece of work is not to be begun; 0 where it may."""
        return max(0.0, self._due[work] - time.monotonic()) if work in self._due else 0.0

    def bear(self, work: Hashable, *, told: str, cause: BaseException | None) -> float:
        """Begin to wait for an environment that failed a piece of work; returns the seconds.

        Raises:
            EnvironmentFault: with `told`; it has failed it for too long.
        """
        now = time.monotonic()
        left_s = self._ends.setdefault(work, now + self._total_s) - now
        if left_s <= 0:
            raise EnvironmentFault(told) from cause
        wait_s = min(_FIRST_WAIT_S * 2.0 ** self._times[work], left_s)
        self._times[work] += 1
        self._due[work] = now + wait_s
        return wait_s

    def forget(self, work: Hashable) -> None:
        """It went through after all."""
        self._ends.pop(work, None)
        self._due.pop(work, None)
        self._times.pop(work, None)

    def persist(self, name: str, work: Callable[[], ResultT], *, say: Say) -> ResultT:
        """Do what may be repeated, again and again while it is the environment that fails."""
        while True:
            try:
                result = work()
            except Exception as error:
                if isinstance(error, EnvironmentFault) or not is_no_shards_fault(error):
                    raise
                told = f"{name}: {describe_fault(error)}"
                wait_s = self.bear(name, told=told, cause=error)
                say(f"{told}; tried again in {wait_s:.0f} s")
                time.sleep(wait_s)
            else:
                self.forget(name)
                return result
