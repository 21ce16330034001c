"""Reading, working and writing at once: two threads around the caller, with bounded queues."""

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic

from pipelines.run.manifest import Manifest
from pipelines.steps.step import ItemT, ResultT, ShardWork

_POLL_S = 0.1


def run_overlapped(
    items: Iterable[ItemT],
    *,
    work: Callable[[ItemT], ResultT],
    write: Callable[[ResultT], None],
    max_queued: int = 2,
) -> None:
    """Do `write(work(item))` for every item, in order, with the three parts overlapped.

    `items` is iterated in one thread and `write` called in another, while `work` (the model) runs
    in the calling thread. The first exception of any of them ends the other two, which are waited
    for, and is raised.

    Args:
        items: Read at most `max_queued` ahead of the work.
        work: The middle part.
        write: Called with each result, in order.
        max_queued: Bound of each of the two queues.
    """
    stop = threading.Event()
    inbox: _Pipe[ItemT] = _Pipe(max_queued, stop)
    outbox: _Pipe[ResultT] = _Pipe(max_queued, stop)
    with ThreadPoolExecutor(2, thread_name_prefix="overlap") as pool:
        try:  # around all of it: SIGTERM raises anywhere, and the threads must not wait for more
            reading = pool.submit(_read, items, inbox)
            writing = pool.submit(_write, outbox, write)
            for item in inbox:
                outbox.put(work(item))
            outbox.end()
            _raise_first(reading, writing)
        except BaseException:
            stop.set()
            raise


def run_shard(work: ShardWork[ItemT, ResultT]) -> Manifest:
    """Take a shard through its three parts, overlapped, to its manifest."""
    with work:
        run_overlapped(work.read(), work=work.compute, write=work.write)
        manifest = work.commit()
    return manifest


class _Pipe(Generic[ItemT]):
    """A bounded queue that both ends leave when `stop` is set."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[tuple[ItemT] | None] = queue.Queue(size)
        self._stop = stop

    def put(self, item: ItemT) -> None:
        self._put((item,))

    def end(self) -> None:
        self._put(None)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def _put(self, entry: tuple[ItemT] | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    def __iter__(self) -> "_Pipe[ItemT]":
        return self

    def __next__(self) -> ItemT:
        while not self._stop.is_set():
            try:
                entry = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if entry is None:
                break
            return entry[0]
        raise StopIteration


def _read(items: Iterable[ItemT], inbox: _Pipe[ItemT]) -> None:
    iterator = iter(items)
    try:
        for item in iterator:
            inbox.put(item)
            if inbox.stopped:
                return
        inbox.end()
    except BaseException:
        inbox.stop()
        raise
    finally:
        close = getattr(iterator, "close", None)  # a generator's open files
        if close is not None:
            close()


def _write(outbox: _Pipe[ResultT], write: Callable[[ResultT], None]) -> None:
    try:
        for result in outbox:
            write(result)
    except BaseException:
        outbox.stop()
        raise


def _raise_first(*futures: "Future[None]") -> None:
    for future in futures:
        error = future.exception()
        if error is not None:
            raise error
