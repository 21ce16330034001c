"""Publishes a training's checkpoints in a thread, while the training goes on."""

import threading
from types import TracebackType
from typing import Self

from pipelines.run.store import RunStore
from pipelines.training.checkpoints import publish_checkpoint
from sd_core.training.checkpoint import Checkpoint, HeldCheckpoint, HostMemory

_LOOK_S = 1.0
"""How often a waiting training looks whether there still is a thread."""
_PATIENCE_S = 1.0
"""For a checkpoint on its way when a signal ends the job: the one before it is whole."""


class CheckpointWriter:
    """One checkpoint at a time: copied at once, published in a thread.

    Its thread is started once, before memory runs low: Python waits for ever for a new one that
    there is no memory for. An error of the thread is raised by the next call of any method.
    """

    def __init__(self, store: RunStore, *, keep: int) -> None:
        self._store, self._keep = store, keep
        self._memory = HostMemory()
        self._given: HeldCheckpoint | None = None
        self._is_given, self._is_free = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._is_free.set()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def publish(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint, and begin to publish it once the one before is there."""
        self.wait()
        self._given = self._memory.hold(checkpoint)
        self._is_free.clear()
        self._is_given.set()

    def wait(self) -> None:
        """Until the last one is published."""
        while not self._is_free.wait(_LOOK_S):
            if not self._thread.is_alive() and not self._is_free.is_set():
                raise MemoryError("the thread that stores checkpoints ended without a word")
        self.check()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.wait()
            elif isinstance(error, Exception):
                while self._thread.is_alive() and not self._is_free.wait(_LOOK_S):
                    continue
            else:
                self._is_free.wait(_PATIENCE_S)
        finally:
            self._given = None
            self._is_given.set()  # which ends the thread

    def _run(self) -> None:
        while True:
            self._is_given.wait()
            self._is_given.clear()
            given, self._given = self._given, None
            if given is None:
                return
            try:
                publish_checkpoint(self._store, given.arrived(), keep=self._keep)
            except BaseException as raised:  # given to the training
                self._error = raised
            finally:
                self._is_free.set()
