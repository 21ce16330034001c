"""Make batches in a thread, and copy them, while a GPU computes."""

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

import torch

from sd_core.training.task import TaskBatch

Batches = Iterator[TaskBatch]
ItemT = TypeVar("ItemT")
_LOOK_S = 1.0
"""How often the reader looks whether there still is a thread."""


class _End:
    """Marks the end of the items, with the error that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def feed(batches: Generator[TaskBatch, None, None], device: torch.device) -> Iterator[Batches]:
    """The batches as the trainer takes them; leaving closes them.

    On a CPU they are made between the steps: the model's threads take all cores, and each waits
    for one that a loader has delayed.
    """
    with ExitStack() as stack:
        stack.enter_context(closing(batches))
        if device.type != "cuda":
            yield batches
            return
        pinned = prefetch(batch.pinned() for batch in batches)
        stack.enter_context(closing(pinned))
        yield copied_ahead(pinned, device)


def copied_ahead(batches: Iterator[TaskBatch], device: torch.device) -> Batches:
    """The batches on the GPU, each copied, on a stream of its own, during the step before."""
    cuda: Any = torch.cuda
    copying, ahead = cuda.Stream(device), None
    failure: BaseException | None = None
    while ahead is not None or failure is None:
        ready, ahead = ahead, None
        try:
            batch = next(batches, None) if failure is None else None
        except Exception as error:  # told after the batches before it
            batch, failure = None, error
        if batch is not None:
            with cuda.stream(copying):
                moved = batch.to(device)
            ahead = moved, copying.record_event()
        if ready is not None:
            present = cuda.current_stream(device)
            present.wait_event(ready[1])
            ready[0].used_by(present)
            yield ready[0]
        if batch is None and failure is None:
            return
    if failure is not None:
        raise failure


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
