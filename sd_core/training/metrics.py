"""What a training says of itself as it goes."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What a log line says; losses are means over the steps since the last one."""

    step: int
    seconds: float
    """Of this process, since its start."""
    samples_per_second: float
    values: Mapping[str, float]


@dataclass
class LogWindow:
    """Sums since the last log line, and over how many steps; a part may not learn at each."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """A step's scalars, which stay on their device."""
        self.steps += 1
        self.counts.update(values.keys())
        for name, value in values.items():
            before = self.sums.get(name)
            self.sums[name] = value.detach() if before is None else before + value.detach()

    def means(self) -> dict[str, Tensor]:
        """By name, in its order."""
        return {name: self.sums[name].double() / self.counts[name] for name in sorted(self.sums)}
