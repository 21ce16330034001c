"""Which nodes of a cluster a job leaves alone."""

import time
from collections import Counter

_FAILURES_IN_A_ROW = 5


class NodeHealth:
    """Counts, for each node, what failed on it in a row while other nodes went on."""

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._done: dict[str, float] = {}  # when a shard was last done on a node

    def succeeded(self, node: str) -> None:
        """A shard was done on it."""
        self._done[node] = time.monotonic()
        self._failures.pop(node, None)
        self._since.pop(node, None)

    def failed(self, node: str) -> int:
        """A worker died or could not start on it, or its disk failed one; returns how many times
        in a row, where that is so often, while others worked, that it is better left alone: else
        0."""
        self._failures[node] += 1
        since = self._since.setdefault(node, time.monotonic())
        others_work = any(done > since for other, done in self._done.items() if other != node)
        failures = self._failures[node]
        return failures if failures >= _FAILURES_IN_A_ROW and others_work else 0
