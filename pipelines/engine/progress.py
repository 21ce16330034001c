"""One progress line a step, and the funnel at the end."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.run.manifest import Manifest
from pipelines.run.record import StepSummary
from sd_core.say import Say, duration

_LINE_EVERY_S = 5.0


@dataclass
class _StepProgress:
    shards_total: int
    shards_before: int
    shards: int = 0
    rows: int = 0
    kept: int = 0
    started: float = field(default_factory=time.monotonic)
    printed: float = 0.0


class Progress:
    """Counts commits and says, every few seconds, how far each step is."""

    def __init__(self, *, say: Say, every_s: float = _LINE_EVERY_S) -> None:
        self._say = say
        self._every_s = every_s
        self._steps: dict[str, _StepProgress] = {}

    def start(self, step: str, *, shards_total: int, shards_done: int) -> None:
        """Begin a step; shards committed by an earlier run are not counted in its rate."""
        self._steps[step] = _StepProgress(shards_total, shards_done)
        if shards_done and shards_done < shards_total:
            self._say(f"{step}: resumes, {shards_done} of {shards_total} shards are committed")

    def add(self, manifest: Manifest) -> None:
        """Count a commit; prints the step's line when one is due or the step has ended."""
        step = self._steps[manifest.step]
        step.shards += 1
        step.rows += manifest.rows_in
        step.kept += manifest.kept
        now = time.monotonic()
        ended = step.shards_before + step.shards == step.shards_total
        if ended or now - step.printed >= self._every_s:
            step.printed = now
            self._say(_line(manifest.step, step, now))


def _line(name: str, step: _StepProgress, now: float) -> str:
    elapsed = max(now - step.started, 1e-6)
    done = step.shards_before + step.shards
    left = (step.shards_total - done) * elapsed / step.shards
    kept = f"{step.kept / step.rows:.1%}" if step.rows else "-"
    return (
        f"{name}: {done}/{step.shards_total} shards, {step.rows:,} rows, "
        f"{step.rows / elapsed:,.1f} images/s, kept {kept}, {duration(left)} left"
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
