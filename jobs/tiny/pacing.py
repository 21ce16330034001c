"""How fast to learn when: by the share of the steps or of the time that has passed."""

import math
import time
from dataclasses import dataclass, field


@dataclass
class Pace:
    """A training's budget: it ends after `steps` or after `minutes`, whichever comes first.

    The learning rate warms up over the first 4% and falls to 0 along a cosine, so a training cut
    by the clock on a busy machine still ends well; without `minutes` it depends on steps alone.
    """

    steps: int
    minutes: float | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """The share of the budget used before `step` (from 0), 0 to 1."""
        spent = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(step / self.steps, spent))

    def rate(self, progress: float, *, peak: float) -> float:
        """The learning rate at `progress`."""
        warm = 0.04
        if progress < warm:
            return peak * (progress / warm * 0.95 + 0.05)
        return peak * (0.01 + 0.99 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2)
