"""What a part of `jobs.bench peers` is given, and what it finds: our way beside a peer's."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PEER_PARTS: Final = ("training", "scoring", "encoding", "reading", "re-cut", "near-hashes")
"""What `--part` takes."""


@dataclass(frozen=True, kw_only=True)
class PeersBench:
    """What to measure."""

    repeats: int
    """Of each side, in turns; the median counts."""
    scale: float
    """Of each part's size: 1 is what is promised of, less is a try."""
    photos: Path
    metadata: Path
    """Where real sizes are."""

    def sized(self, full: int, *, least: int = 1) -> int:
        """A part's size at this scale."""
        return max(least, round(full * self.scale))


@dataclass(frozen=True, kw_only=True)
class PeerResult:
    """Both sides at the same work, each the median of its repeats.

    Attributes:
        part: A key of `PARTS`, and what of it where it has several.
        peer: Whose public pattern it is beside.
        amount: Of work on either side, in `unit`.
        min_ratio: Promised of `ratio`.
        min_per_second: Promised of our rate, whatever the peer's.
        our_bytes: Peak memory, where it counts.
        max_memory_ratio: Promised of our peak over the peer's.
    """

    part: str
    peer: str
    unit: str
    amount: int
    our_seconds: float
    peer_seconds: float
    min_ratio: float | None = None
    min_per_second: float | None = None
    our_bytes: int | None = None
    peer_bytes: int | None = None
    max_memory_ratio: float | None = None

    @property
    def ratio(self) -> float:
        """How many times the peer's speed ours is."""
        return self.peer_seconds / self.our_seconds

    @property
    def is_good_enough(self) -> bool:
        """Whether what is promised holds."""
        rate = self.amount / self.our_seconds
        fits = True
        if self.max_memory_ratio is not None and self.our_bytes and self.peer_bytes:
            fits = self.our_bytes <= self.max_memory_ratio * self.peer_bytes
        return fits and self.ratio >= (self.min_ratio or 0) and rate >= (self.min_per_second or 0)


def in_turns(sides: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, float]:
    """Median seconds of each side; all are run once before any is measured, then in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}
