"""Faults of a process, installed before its job: a kill at a write, a clock, a broken model."""

import errno
import functools
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.run.lease import Lease
from pipelines.run.store import RunStore
from pipelines.steps.encode import encode as encoding
from pipelines.steps.generate.text_cache import TextCache
from tests.hostile import children

_DOORS = ("put_file", "replace", "create_exclusive", "show", "delete")
"""The ways of a write to a run's storage."""

_BY_THE_CLOCK = ("lease", "sight")
"""Threads that write every few seconds: how often depends on the machine."""


@dataclass(frozen=True)
class Kill:
    """A signal at the n-th write (from 1), before it, within it or after it.

    Args:
        at: Which write; 0 for none.
        moment: `before`, `torn` (half of the content is on the disk, under its temporary name)
            or `after`.
        counted: A file that gets a byte for each write.
        number: Which signal.
    """

    at: int
    moment: str
    counted: str
    number: signal.Signals = signal.SIGKILL

    def install(self) -> None:
        """Count the writes of this process, but for those that follow the clock: the lease's
        heartbeats and the status."""
        Path(self.counted).write_bytes(b"")
        for name in _DOORS:
            setattr(RunStore, name, self._guarded(getattr(RunStore, name)))

    def _guarded(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def guarded(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread().name in _BY_THE_CLOCK or self._count() != self.at:
                return write(*arguments, **options)
            if self.moment == "before":
                self._send()
            if self.moment == "torn":
                os.fsync = _tear
            written = write(*arguments, **options)
            if self.moment != "before":
                self._send()
            return written

        return guarded

    def _send(self) -> None:
        os.kill(os.getpid(), self.number)

    def _count(self) -> int:
        with open(self.counted, "ab") as stream:
            stream.write(b".")
            stream.flush()
            return stream.tell()


def _tear(handle: int) -> None:
    path = os.readlink(f"/proc/self/fd/{handle}")
    os.truncate(path, os.stat(path).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class BrokenDisk:
    """The disk under the output answers EIO to the n-th flush (from 1) and to all later ones."""

    at: int

    def install(self) -> None:
        """Break it."""
        flush, count = os.fsync, itertools.count(1)

        def broken(handle: int) -> None:
            if next(count) >= self.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            flush(handle)

        os.fsync = broken


@dataclass(frozen=True)
class NoLinks:
    """A disk without hard links, and perhaps another fault."""

    then: children.Fault | None = None

    def install(self) -> None:
        """Refuse them, as exFAT and mounted object stores do."""

        def refused(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        os.link = refused
        if self.then is not None:
            self.then.install()


@dataclass(frozen=True)
class Clock:
    """The clock jumps by so many seconds at the n-th time that it is asked."""

    at: int
    jump_s: float

    def install(self) -> None:
        """Bend `time.time`."""
        now, count = time.time, itertools.count(1)
        time.time = lambda: now() + (self.jump_s if next(count) >= self.at else 0.0)


@dataclass(frozen=True)
class ShortLease:
    """A lease that beats and expires fast, and perhaps another fault."""

    then: Kill | None = None

    def install(self) -> None:
        """Change what a lease takes by default."""
        defaults = Lease.__init__.__kwdefaults__
        defaults.update(beat_s=0.2, expiry_s=2.0)
        if self.then is not None:
            self.then.install()


@dataclass(frozen=True)
class NotFinite:
    """The n-th image that is encoded becomes latents that are not finite."""

    at: int

    def install(self) -> None:
        """Wrap the autoencoder."""
        encode, count = encoding.encode_images, itertools.count(1)

        def poisoned(*arguments: Any, **options: Any) -> Any:
            latents = encode(*arguments, **options)
            for image in latents:
                if next(count) == self.at:
                    image[0, 0, 0] = float("nan")
            return latents

        encoding.encode_images = poisoned


@dataclass(frozen=True)
class PoisonPrompt:
    """A prompt with this text in it makes the text encoder raise."""

    text: str

    def install(self) -> None:
        """Wrap the encoding of prompts."""
        encode = TextCache._encode

        def poisoned(cache: TextCache, texts: Any, *further: Any) -> Any:
            if any(self.text in text for text in texts):
                raise ValueError("a poison prompt")
            return encode(cache, texts, *further)

        TextCache._encode = poisoned  # type: ignore[method-assign]


@dataclass(frozen=True)
class LittleMemory:
    """The process may have so many MiB of memory more than it begins with."""

    mib: int

    def install(self) -> None:
        """Limit its address space."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (self.mib << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
