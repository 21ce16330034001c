"""What is seen of a job while it works: kept here, and written into its run by a thread."""

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Self

from pipelines.engine.chain import Chain
from pipelines.engine.metrics import RayMetrics
from pipelines.engine.pool import Pool
from pipelines.engine.progress import Progress
from pipelines.run.lease import Lease
from pipelines.run.sight import SIGHT_FILE, JobSight, TrainingSight, WorkersSight, write_sight
from pipelines.run.store import RunStore
from sd_core.redact import redact_text
from sd_core.say import Say

_WRITE_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0
_SHARES_OF_S = 120.0
_LAST_TRY_S = 5.0  # for a store that may not answer
_LAST_ERRORS = 10
_ERROR_CHARS = 500


class Sight:
    """Gathers what a job does; `write` gives it to the run.

    A store that cannot be written costs the sight and nothing else: whoever looks sees its age.

    Attributes:
        workers: By step, as the runner saw them last; replaced as a whole.
        waits_for: As `JobSight` has it.
        training: Gives that of a training.
    """

    def __init__(self, progress: Progress) -> None:
        self.workers: Mapping[str, WorkersSight] = {}
        self.waits_for: str | None = None
        self.training: Callable[[], TrainingSight | None] = lambda: None
        self._progress = progress
        self._errors: deque[str] = deque(maxlen=_LAST_ERRORS)
        self._began = time.monotonic()

    def on_trouble(self, say: Say) -> Say:
        """`say`, of whose lines the last ones are kept as errors."""

        def told(line: str) -> None:
            self._errors.append(redact_text(line)[:_ERROR_CHARS])
            say(line)

        return told

    def began(self, step: str) -> None:
        """A worker of a step can begin."""
        self._progress.ready(step)

    def look(self) -> JobSight:
        """As it is now; from any thread."""
        workers = self.workers
        return JobSight(
            host=socket.gethostname(),
            pid=os.getpid(),
            written=time.time(),
            running_s=round(time.monotonic() - self._began, 1),
            steps=tuple(
                replace(step, workers=workers.get(step.step)) for step in self._progress.steps()
            ),
            waits_for=self.waits_for,
            errors=tuple(self._errors.copy()),
            training=self.training(),
        )


class RunnerSight:
    """Puts what the runner on Ray knows into a job's sight, and into Ray's metrics.

    Args:
        sight: Of the job.
        metrics: Of the job.
    """

    def __init__(self, sight: Sight, metrics: RayMetrics) -> None:
        self.metrics = metrics
        self._sight = sight
        self._looked = time.monotonic()
        self._past: dict[str, deque[tuple[float, float, float]]] = {}

    def look(self, chain: Chain, pools: Mapping[int, Pool], *, waits_for: str | None) -> None:
        """Take in how the pools of a chain are, at most every second."""
        now = time.monotonic()
        if (passed_s := now - self._looked) < _LOOK_EVERY_S:
            return
        self._looked = now
        workers = {}
        for index, pool in pools.items():
            state, step = chain.states[index], pool.step.name
            self.metrics.queue(step, ready=len(state.ready), running=len(state.running))
            self._count(pool, passed_s)
            busy, starved = self._shares(pool, now)
            workers[step] = WorkersSight(
                by_node=dict(pool.sight.hosts),
                pending=pool.sight.pending,
                busy=busy,
                starved=starved,
                rows_in_hand=pool.sight.rows_in_hand,
                queued=len(state.ready),
            )
        self._sight.workers, self._sight.waits_for = workers, waits_for

    def on_trouble(self, say: Say) -> Say:
        """As `Sight.on_trouble`."""
        return self._sight.on_trouble(say)

    def began(self, step: str) -> None:
        """A worker is ready."""
        self._sight.began(step)

    def ended(self) -> None:
        """The chain has ended, and nothing is awaited."""
        self._sight.workers, self._sight.waits_for = {}, None

    def _count(self, pool: Pool, passed_s: float) -> None:
        for slot in pool.slots:
            if slot.is_ready and slot.facts is not None:
                gpu = slot.facts.cuda_visible_devices if slot.need.num_gpus else None
                busy_s = passed_s if slot.inflight else 0.0
                self.metrics.worked(
                    pool.step.name,
                    slot.facts.host,
                    gpu or "",
                    busy_s=busy_s,
                    wait_s=passed_s - busy_s,
                )

    def _shares(self, pool: Pool, now: float) -> tuple[float | None, float | None]:
        past = self._past.setdefault(pool.step.name, deque([(now, 0.0, 0.0)]))
        past.append((now, pool.sight.busy_s, pool.sight.idle_s))
        while len(past) > 2 and past[1][0] < now - _SHARES_OF_S:
            past.popleft()
        busy_s, idle_s = (past[-1][at] - past[0][at] for at in (1, 2))
        if not (both := busy_s + idle_s):
            return None, None
        return round(busy_s / both, 3), round(idle_s / both, 3)


class SightWriter:
    """Writes what `look` sees into the run until the `with` block ends, then removes it.

    Args:
        lease: Without it nothing is written, and nothing removed.
    """

    def __init__(
        self,
        store: RunStore,
        lease: Lease,
        look: Callable[[], JobSight],
        *,
        every_s: float | None = None,
    ) -> None:
        self._store, self._lease, self._look = store, lease, look
        self._every_s = _WRITE_EVERY_S if every_s is None else every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sight", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(_LAST_TRY_S)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            if not self._lease.lost:
                with suppress(Exception):
                    write_sight(self._store, self._look())
        if not self._lease.lost:
            with suppress(Exception):  # also what a job that was killed left
                if self._store.exists(SIGHT_FILE):
                    self._store.delete(SIGHT_FILE)
