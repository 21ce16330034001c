"""How fast a run was made: rows that each step committed, over the seconds that its jobs took.

No dates, no machines; a run's data files never depend on it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore

RATES_FILE: Final = "rates.json"
_MAX_BUCKETS = 120
_MAX_JOBS = 20


@dataclass(frozen=True, kw_only=True)
class StepRates:
    """What a step committed in equal spells of a job, from the step's start.

    Attributes:
        rows: Rows of the shards committed in each spell.
        kept: Of these.
    """

    step: str
    width_s: float
    rows: Sequence[int]
    kept: Sequence[int]


class RateLog:
    """Counts one job's commits, in at most 120 spells of each step.

    Args:
        clock: Seconds, from any start.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._width_s = 1.0
        self._steps: dict[str, dict[int, tuple[int, int]]] = {}
        self._begun: dict[str, float] = {}

    def start(self, step: str) -> None:
        """A step's workers begin now; otherwise its time is taken from the job's start."""
        self._begun.setdefault(step, self._clock() - self._started)

    def add(self, manifest: Manifest) -> None:
        """Count a commit that was made now."""
        at = int((self._clock() - self._started) / self._width_s)
        while at >= _MAX_BUCKETS:
            self._halve()
            at //= 2
        self._count(self._steps.setdefault(manifest.step, {}), at, manifest.rows_in, manifest.kept)

    def write(self, store: RunStore) -> None:
        """Add this job's rates to those of the jobs before it; none where it committed nothing."""
        if not self._steps:
            return
        job = [asdict(rates) for rates in self.rates()]
        jobs = [*_read(store), job][-_MAX_JOBS:]
        store.replace(RATES_FILE, (json.dumps({"jobs": jobs}) + "\n").encode())

    def rates(self) -> list[StepRates]:
        """Of every step that committed anything so far."""
        return [self._rates(step, buckets) for step, buckets in self._steps.items()]

    def _halve(self) -> None:
        self._width_s *= 2
        for step, buckets in self._steps.items():
            merged: dict[int, tuple[int, int]] = {}
            for at, (rows, kept) in buckets.items():
                self._count(merged, at // 2, rows, kept)
            self._steps[step] = merged

    @staticmethod
    def _count(buckets: dict[int, tuple[int, int]], at: int, rows: int, kept: int) -> None:
        before = buckets.get(at, (0, 0))
        buckets[at] = (before[0] + rows, before[1] + kept)

    def _rates(self, step: str, buckets: Mapping[int, tuple[int, int]]) -> StepRates:
        first = int(self._begun.get(step, 0.0) / self._width_s)
        pairs = [buckets.get(at, (0, 0)) for at in range(first, max(buckets) + 1)]
        return StepRates(
            step=step,
            width_s=self._width_s,
            rows=[rows for rows, _ in pairs],
            kept=[kept for _, kept in pairs],
        )


def read_rates(store: RunStore) -> list[list[StepRates]]:
    """Of each job of the run, oldest first; empty where none was recorded."""
    return [[StepRates(**rates) for rates in job] for job in _read(store)]


def _read(store: RunStore) -> list[list[dict[str, Any]]]:
    try:
        jobs: list[list[dict[str, Any]]] = json.loads(store.read_bytes(RATES_FILE))["jobs"]
    except FileNotFoundError:
        return []
    return jobs
