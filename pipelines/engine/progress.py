"""One progress line a step, and the funnel at the end."""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.run.manifest import Manifest
from pipelines.run.record import StepSummary
from pipelines.run.sight import StepSight
from sd_core.say import Say, duration

_LINE_EVERY_S = 5.0
_WINDOW_S = 300.0
_FEWEST_COMMITS = 20
"""The pace is that of the last minutes, or of so many commits, whichever is longer."""


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """What a job had committed of a step at a time."""

    time: float
    shards: int = 0
    rows: int = 0
    num_bytes: int = 0


@dataclass
class _StepProgress:
    shards_total: int
    shards_before: int
    past: deque[_Moment]
    shards: int = 0
    rows: int = 0
    kept: int = 0
    num_bytes: int = 0
    is_ready: bool = False
    printed: float = 0.0

    @property
    def done(self) -> int:
        return self.shards_before + self.shards

    def begin_at(self, now: float) -> None:
        """A worker is ready: the pace is counted from here."""
        if not self.is_ready and not self.shards:
            self.past = deque([_Moment(time=now)])
            self.is_ready = True

    def add(self, manifest: Manifest, now: float) -> None:
        self.shards += 1
        self.rows += manifest.rows_in
        self.kept += manifest.kept
        self.num_bytes += sum(file.num_bytes for file in manifest.files)
        self.past.append(
            _Moment(time=now, shards=self.shards, rows=self.rows, num_bytes=self.num_bytes)
        )
        if not self.is_ready and self.shards == 2:
            self.past.popleft()  # from the first commit on, since none knows when it was ready
        while len(self.past) > _FEWEST_COMMITS + 1 and self.past[1].time < now - _WINDOW_S:
            self.past.popleft()

    def sight(self, name: str, now: float) -> StepSight:
        first, last = self.past[0], self.past[-1]
        passed = max(now - first.time, 1e-6)
        paced = last.shards > first.shards
        left = self.shards_total - self.done
        return StepSight(
            step=name,
            shards=self.shards_total,
            done=self.done,
            rows=self.rows,
            kept=self.kept,
            rows_per_s=round((last.rows - first.rows) / passed, 2) if paced else None,
            bytes_per_s=round((last.num_bytes - first.num_bytes) / passed) if paced else None,
            left_s=round(left * passed / (last.shards - first.shards), 1) if paced else None,
        )


class Progress:
    """Counts commits and says, every few seconds, how far each step is."""

    def __init__(self, *, say: Say, every_s: float = _LINE_EVERY_S) -> None:
        self._say = say
        self._every_s = every_s
        self._steps: dict[str, _StepProgress] = {}
        self._lock = threading.Lock()  # another thread may look

    def start(self, step: str, *, shards_total: int, shards_done: int) -> None:
        """Begin a step; shards committed by an earlier run are not counted in its rate."""
        with self._lock:
            past = deque([_Moment(time=time.monotonic())])
            self._steps[step] = _StepProgress(shards_total, shards_done, past)
        if shards_done and shards_done < shards_total:
            self._say(f"{step}: resumes, {shards_done} of {shards_total} shards are committed")

    def ready(self, step: str) -> None:
        """A worker of the step can begin: what it took to start is no part of the pace."""
        with self._lock:
            self._steps[step].begin_at(time.monotonic())

    def add(self, manifest: Manifest) -> None:
        """Count a commit; prints the step's line when one is due or the step has ended."""
        now = time.monotonic()
        step = self._steps[manifest.step]
        with self._lock:
            step.add(manifest, now)
        if step.done == step.shards_total or now - step.printed >= self._every_s:
            step.printed = now
            self._say(progress_line(step.sight(manifest.step, now)))

    def steps(self) -> list[StepSight]:
        """How far each step is that has begun; from any thread."""
        with self._lock:
            now = time.monotonic()
            return [step.sight(name, now) for name, step in self._steps.items()]


def progress_line(step: StepSight) -> str:
    """How far a step is, in a line."""
    kept = f"{step.kept / step.rows:.1%}" if step.rows else "-"
    left = "-" if step.left_s is None else duration(step.left_s)
    return (
        f"{step.step}: {step.done}/{step.shards} shards, {step.rows:,} rows, "
        f"{step.rows_per_s or 0:,.1f} images/s, kept {kept}, {left} left"
    )


def funnel_table(num_rows: int, steps: Sequence[tuple[str, StepSummary]]) -> str:
    """The closing table: for each step rows in, kept, and dropped by reason.

    Args:
        num_rows: Rows of the input list.
        steps: Name and summary, in the order of the rows' way.
    """
    lines = [f"{'step':<10} {'rows in':>10} {'kept':>10} {'share':>7}  dropped by reason"]
    for name, summary in steps:
        share = f"{summary.kept / summary.rows_in:.1%}" if summary.rows_in else "-"
        reasons = _reasons(summary.dropped)
        lines.append(
            f"{name:<10} {summary.rows_in:>10,} {summary.kept:>10,} {share:>7}  "
            + (reasons[0] if reasons else "")
        )
        lines += [" " * 41 + reason for reason in reasons[1:]]
    if steps:
        kept = steps[-1][1].kept
        total = sum((Counter(summary.dropped) for _, summary in steps), Counter[str]())
        lines.append(
            f"{'all':<10} {num_rows:>10,} {kept:>10,} {kept / max(num_rows, 1):>7.1%}  "
            f"{sum(total.values()):,} dropped; "
            + (
                "every row is accounted for"
                if kept + sum(total.values()) == num_rows
                else "THE COUNTS DO NOT ADD UP: run latent-foundry verify"
            )
        )
    return "\n".join(lines)


def _reasons(dropped: Mapping[str, int]) -> list[str]:
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:>8,} {reason}" for reason, count in ordered]
