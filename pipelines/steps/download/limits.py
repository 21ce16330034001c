"""What bounds a fetch: time per URL, concurrency per host, bytes in flight per process."""

import ctypes
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.steps.download.failure import FetchFailed

_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK_BYTES = 1024 * 1024


def return_large_blocks_to_the_system() -> None:
    """Have glibc map large blocks one by one, so that a freed body leaves the process at once.

    By default it learns from the first large body to keep such blocks in the heap of each thread:
    with 64 threads and bodies of 30 MB that was 770 MB instead of 280.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:  # glibc; musl has no such heap
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


class Deadline:
    """The moment by which a URL must be done with."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds left, at least a microsecond.

        Raises:
            FetchFailed: `download_timed_out`, when none is left.
        """
        remaining = self._ends - time.monotonic()
        if remaining <= 0:
            raise self.missed()
        return max(remaining, 1e-6)

    def missed(self) -> FetchFailed:
        """The failure to raise when an operation ran into this deadline."""
        return FetchFailed("download_timed_out", f"not done after {self._timeout_s:g} s")

    def allows(self, wait_s: float) -> bool:
        """Whether there is time left after waiting this long."""
        return time.monotonic() + wait_s < self._ends

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside is not counted: it is spent in our own queues, not on the server."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._ends += time.monotonic() - start


class HostSlots:
    """At most `per_host` holders for each host name."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = {}
        self._users: dict[str, int] = {}

    @contextmanager
    def slot(self, host: str, *, deadline: Deadline) -> Iterator[None]:
        """Hold one slot of `host`; the wait for it does not count against the deadline."""
        with self._lock:
            semaphore = self._slots.setdefault(host, threading.Semaphore(self._per_host))
            self._users[host] = self._users.get(host, 0) + 1
        try:
            if not semaphore.acquire(blocking=False):
                with deadline.paused():
                    semaphore.acquire()
            try:
                yield
            finally:
                semaphore.release()
        finally:
            with self._lock:
                self._users[host] -= 1
                if not self._users[host]:
                    del self._users[host], self._slots[host]


class ByteBudget:
    """Bytes of bodies that may be held at once.

    A body is reserved whole before it is read, never piece by piece, so that two half-read bodies
    cannot wait for each other. First come, first served, so that a large one gets its turn.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    def reserve(self, size: int, *, deadline: Deadline) -> int:
        """Wait for `size` bytes (at most the whole budget) and take them; returns how many."""
        size = min(size, self._total)
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                if self._waiting[0] is not turn or self._free < size:
                    with deadline.paused():
                        self._changed.wait_for(
                            lambda: self._waiting[0] is turn and self._free >= size
                        )
                self._free -= size
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        return size

    def release(self, size: int) -> None:
        """Give back what `reserve` returned."""
        if size:
            with self._changed:
                self._free += size
                self._changed.notify_all()
