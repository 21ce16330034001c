"""Which nodes of a cluster a job leaves alone."""

import time
from collections import defaultdict
from collections.abc import Hashable

_FAILURES = 5
_LONG_S = 60.0


class NodeHealth:
    """Counts, for each step and node, what failed there while the step went on at other nodes."""

    def __init__(self) -> None:
        self._failed: defaultdict[tuple[str, str], dict[Hashable, float]] = defaultdict(dict)
        self._done: dict[tuple[str, str], float] = {}  # when a shard last was

    def succeeded(self, step: str, node: str) -> None:
        """A shard was done on it."""
        self._done[step, node] = time.monotonic()
        self._failed.pop((step, node), None)

    def failed(self, step: str, node: str, what: Hashable) -> int:
        """A worker died or could not start on it, or its disk failed one.

        Args:
            what: The shard, or the worker's place: a shard that kills all its workers is one.

        Returns:
            How many things failed there in a row, where they are so many, for so long, that the
            node is better left alone; else 0.
        """
        now, failed = time.monotonic(), self._failed[step, node]
        failed.setdefault(what, now)
        since = min(failed.values())
        others_work = any(
            done > since
            for (name, other), done in self._done.items()
            if name == step and other != node
        )
        is_sick = len(failed) >= _FAILURES and now - since >= _LONG_S and others_work
        return len(failed) if is_sick else 0
