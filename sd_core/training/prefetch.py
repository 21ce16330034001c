"""Make batches in a thread while the device computes."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")
_LOOK_S = 1.0
"""How often the reader looks whether there still is a thread."""


class _End:
    """Marks the end of the items, with the error that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetch(items: Iterator[ItemT], *, depth: int = 4) -> Generator[ItemT, None, None]:
    """Yield the same items in the same order, up to `depth` of them made ahead.

    An error of the iterator is raised here, after the items before it. Closing the generator
    stops the thread.
    """
    made: queue.Queue[ItemT | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: ItemT | _End) -> bool:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as raised:  # given to the reader
            error = raised
        put(_End(error))

    def take() -> ItemT | _End:
        while True:
            is_last = not thread.is_alive()  # what it made is there by then
            try:
                return made.get(timeout=_LOOK_S)
            except queue.Empty:
                if is_last:  # without the memory to say so
                    return _End(MemoryError("the thread that makes batches ended without a word"))

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = take()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        thread.join()
