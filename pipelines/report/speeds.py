"""How fast each step went, over the time that a run's jobs took."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.run.rates import StepRates

_MOST_BARS = 40


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One step; its jobs follow each other without a gap.

    Attributes:
        edges_s: Seconds from the first job's start of the step.
        kept: Rows a second in each interval that passed the step.
        dropped: And that did not.
    """

    step: str
    edges_s: npt.NDArray[np.float64]
    kept: npt.NDArray[np.float64]
    dropped: npt.NDArray[np.float64]
    rows: int

    @property
    def text(self) -> str:
        """In words."""
        seconds = self.edges_s[-1]
        return f"{self.rows:,} rows in {seconds:,.0f} s, {self.rows / seconds:,.1f} a second"


def gather_rates(jobs: Sequence[Sequence[StepRates]]) -> list[Rates]:
    """The rates of every step that committed anything, in the order of their first jobs."""
    names = dict.fromkeys(rates.step for job in jobs for rates in job)
    return [_gather(name, jobs) for name in names]


def _gather(name: str, jobs: Sequence[Sequence[StepRates]]) -> Rates:
    starts: list[float] = []
    rows: list[int] = []
    kept: list[int] = []
    end = 0.0
    for rates in (rates for job in jobs for rates in job if rates.step == name):
        starts += [end + rates.width_s * at for at in range(len(rates.rows))]
        rows += rates.rows
        kept += rates.kept
        end += rates.width_s * len(rates.rows)
    edges = np.linspace(0, end, min(_MOST_BARS, max(1, int(end))) + 1)
    passed = np.histogram(starts, edges, weights=kept)[0] / edges[1]
    total = np.histogram(starts, edges, weights=rows)[0] / edges[1]
    return Rates(step=name, edges_s=edges, kept=passed, dropped=total - passed, rows=sum(rows))
