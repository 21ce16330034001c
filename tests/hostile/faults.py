"""Faults of a process, installed before its job: a kill at a write, a clock, a broken model."""

import functools
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.run.spool import CropSpool
from pipelines.run.store import RunStore

_DOORS = ("put_file", "replace", "create_exclusive", "delete")
"""The ways of a write to a run's storage."""
_SPOOL = (
    (CropSpool, "add"),
    ("pipelines.steps.download.shard_files", "write_table"),
    ("pipelines.steps.download.step", "write_crops"),
)


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the n-th write (from 1), before it, within it or after it.

    Args:
        at: Which write; 0 kills at none.
        moment: `before`, `torn` (half of the content is on the disk, under its temporary name)
            or `after`.
        counted: A file that gets a byte for each write.
    """

    at: int
    moment: str
    counted: str

    def install(self) -> None:
        """Count the writes of this process, but for the lease's heartbeats."""
        Path(self.counted).write_bytes(b"")
        for name in _DOORS:
            setattr(RunStore, name, self._guarded(getattr(RunStore, name)))

    def _guarded(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def guarded(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name == "lease" or self._count() != self.at:
                return write(*arguments, **options)
            if self.moment == "before":
                die()
            if self.moment == "torn":
                os.fsync = _tear
            write(*arguments, **options)
            die()

        return guarded

    def _count(self) -> int:
        with open(self.counted, "ab") as stream:
            stream.write(b".")
            stream.flush()
            return stream.tell()


def die() -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _tear(handle: int) -> None:
    path = os.readlink(f"/proc/self/fd/{handle}")
    os.truncate(path, os.stat(path).st_size // 2)
    die()
