"""Work on shards by threads, a few ahead; what comes of it comes in their order."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

NUM_CORES: Final = min(4, os.cpu_count() or 1)
"""Threads for work that computes on tables: a part of it holds Python's lock, and each has a shard
in memory."""


def in_order(
    work: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, num_threads: int
) -> Iterator[ResultT]:
    """`work` of each item, on threads; memory holds the results of twice as many as there are.

    Once it ends, however it does, no thread of its works any more, and `items` are closed where
    they can be: those that come of threads of their own.

    Args:
        num_threads: `RunStore.num_threads` for work that mostly waits for storage.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what a signal left unasked
            if isinstance(items, Generator):
                items.close()


def do_all(work: Callable[[ItemT], object], items: Iterable[ItemT], *, num_threads: int) -> None:
    """As `in_order`, of work that gives nothing."""
    for _ in in_order(work, items, num_threads=num_threads):
        pass
