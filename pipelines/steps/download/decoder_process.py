"""A decoder in a process of its own: what kills it costs one image.

    submit() -> pending, to_child -> [writer thread] -> child -> [reader thread] -> futures

The child answers in order, so the oldest pending image is the one it works on. When the child
dies, that image is tried once more, first in line, in a fresh child; a second death is its
verdict. So an outside kill costs nothing and a poisonous file costs only itself. A time-out is a
verdict at once. After a file on which a decoder gave up half-way, the process that decodes retires
and a fork of one that never decoded takes over (`decoder_lives`): the result of an image never
depends on what was decoded before it.
"""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import BinaryIO, cast

from pipelines.steps.download.decode_frames import (
    EXIT_OUT_OF_MEMORY,
    DecodeResult,
    frame_reader,
    read_answer,
    read_hello,
    write_frame,
)
from pipelines.steps.download.header import read_header, shown_size
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageReason, ImageRejected

__all__ = ["DecodeResult", "DecoderProcess"]

_CHILD_MODULE = "pipelines.steps.download.decoder_child"
_WALL_CLOCK_FACTOR = 4.0  # an answer that takes this many time limits is not waited for
_WALL_CLOCK_SLACK_S = 5.0  # and this much on top
_START_S = 120.0  # what a child may take to start, on however busy a machine
_WATCH_S = 0.25
_MAX_DEATHS = 2
_MAX_FAILED_STARTS = 3
# Numerics in one thread, and freed memory kept for the next image: faulting pages in anew took
# longer than the pixels.
_CHILD_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}


@dataclass(eq=False)
class _Job:
    data: bytes
    future: "Future[DecodeResult]" = field(default_factory=Future)
    deaths: int = 0


class DecoderProcess:
    """Owns one decoding child. A context manager; threads may share it.

    Args:
        config: what to make of each original, and the bounds on it.
    """

    def __init__(self, config: ImageConfig) -> None:
        self._config = config
        self._lock = threading.Lock()  # guards everything below
        self._pending: deque[_Job] = deque()
        self._waiting_since = time.monotonic()  # when the oldest pending image became so
        self._closed = False
        self._failure: str | None = None
        self._child = _Child(config)
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._serve, name="decoder-reader", daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, name="decoder-watch", daemon=True).start()

    def __enter__(self) -> "DecoderProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def is_usable(self) -> bool:
        """Whether it takes images: neither closed nor given up."""
        return not self._closed

    @property
    def pid(self) -> int:
        """The process that decodes; another one after each rejection and each restart."""
        return self._child.pid

    @property
    def supervisor_pid(self) -> int:
        """The process that it is a fork of, which never decodes; another one after a death."""
        return self._child.process.pid

    def submit(self, data: bytes) -> "Future[DecodeResult]":
        """Queues an original. A bad image is a result with a reason, never an exception.

        Raises:
            RuntimeError: the decoder is closed, or its child cannot be started.
        """
        job = _Job(data)
        job.future.set_running_or_notify_cancel()  # from here on it cannot be cancelled
        with self._lock:
            if self._closed:
                raise RuntimeError(self._failure or "DecoderProcess.submit: it has been closed")
            if not self._pending:
                self._waiting_since = time.monotonic()
            self._pending.append(job)
            self._child.outbox.put(data)
        return job.future

    def close(self) -> None:
        """Finishes what was submitted, then ends the child. May be called again."""
        with self._lock:
            self._closed = True
            self._child.outbox.put(None)
        self._reader.join()

    def _serve(self) -> None:
        """The reader thread; whatever happens to it, no future is left waiting."""
        try:
            self._answer_until_closed()
        except Exception as error:
            self._give_up(f"its reader failed: {type(error).__name__}: {error}")
        finally:
            self._ended.set()

    def _answer_until_closed(self) -> None:
        """Answers become results, deaths become retries or verdicts."""
        failed_starts = 0
        while True:
            started = self._read_answers()
            reason = self._child.end()
            failed_starts = 0 if started else failed_starts + 1
            if failed_starts == _MAX_FAILED_STARTS:
                self._give_up(f"{failed_starts} children died while starting; see stderr")
                return
            if started:
                self._judge_oldest(reason)
            with self._lock:
                if self._closed and not self._pending:
                    return
                self._restart()

    def _read_answers(self) -> bool:
        """Hands out answers until the child is gone; False when it went while (re)starting."""
        while self._read_hello():
            retires = False
            while not retires and (answer := read_answer(self._child.stdout)) is not None:
                retires = answer.retires
                with self._lock:
                    job = self._pending.popleft()
                    self._waiting_since = time.monotonic()
                job.future.set_result(answer.result)
            if not retires:
                return True
        return False

    def _read_hello(self) -> bool:
        pid = read_hello(self._child.stdout)
        if pid is None:
            return False
        with self._lock:
            self._child.pid, self._child.ready = pid, True
            self._waiting_since = time.monotonic()
        return True

    def _judge_oldest(self, reason: ImageReason) -> None:
        """Charges the image the dead child worked on, with a verdict if that was its last chance.

        It is pending until it has its verdict, so that a failure here leaves no future waiting.
        """
        with self._lock:
            job = self._pending[0] if self._pending else None
        if job is None:
            return
        job.deaths += 1
        if job.deaths < _MAX_DEATHS and reason != "decode_timed_out":
            return
        verdict = _verdict(job, reason, self._config)
        with self._lock:
            self._pending.popleft()
        job.future.set_result(verdict)

    def _restart(self) -> None:
        self._child = _Child(self._config)
        self._waiting_since = time.monotonic()
        for job in self._pending:
            self._child.outbox.put(job.data)
        if self._closed:
            self._child.outbox.put(None)

    def _give_up(self, why: str) -> None:
        failure = f"DecoderProcess ({_CHILD_MODULE}): {why}"
        with self._lock:
            self._closed, self._failure = True, failure
            orphans = list(self._pending)
            self._pending.clear()
        for job in orphans:
            job.future.set_exception(RuntimeError(failure))

    def _watch(self) -> None:
        """Kills a child that gives no answer: stopped, or stuck outside its own CPU limit."""
        answer_s = _WALL_CLOCK_FACTOR * self._config.decode_timeout_s + _WALL_CLOCK_SLACK_S
        while not self._ended.wait(_WATCH_S):
            with self._lock:
                waited = time.monotonic() - self._waiting_since
                patience = answer_s if self._child.ready else _START_S
                if self._pending and waited > patience:
                    self._child.kill_for_time()


class _Child:
    """One child process, the queue of what it is to be sent, and the thread that sends it."""

    def __init__(self, config: ImageConfig) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", _CHILD_MODULE, config.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # a terminal's Ctrl-C is the parent's
            env={**os.environ, **_CHILD_ENVIRONMENT, "PYTHONPATH": path},
        )
        self.stdout = frame_reader(cast(io.RawIOBase, self.process.stdout))
        self.outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self.pid = self.process.pid  # until the process that decodes has told its own
        self.ready = False
        self._timed_out = False
        threading.Thread(target=self._write, name="decoder-writer", daemon=True).start()

    def _write(self) -> None:
        """The writer thread: sends until told to stop or until nobody reads any more."""
        with cast(BinaryIO, self.process.stdin) as pipe:
            try:
                while (data := self.outbox.get()) is not None:
                    write_frame(pipe, data)
            except BrokenPipeError:
                pass

    def kill_for_time(self) -> None:
        """Kills it for taking too long; `end` then says so."""
        self._timed_out = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.kill()

    def end(self) -> ImageReason:
        """Reaps a child whose output has ended; what its death says about its image."""
        self.outbox.put(None)
        self.stdout.close()
        status = self.process.wait()
        if self._timed_out or status == -signal.SIGPROF:
            return "decode_timed_out"
        return "decode_out_of_memory" if status == EXIT_OUT_OF_MEMORY else "decoder_crashed"


def _verdict(job: _Job, reason: ImageReason, config: ImageConfig) -> DecodeResult:
    message = {
        "decode_timed_out": f"more than image.decode_timeout_s = {config.decode_timeout_s:g}",
        "decode_out_of_memory": f"more than image.max_memory_bytes = {config.max_memory_bytes}",
        "decoder_crashed": f"{_MAX_DEATHS} decoder processes died on it",
    }[reason]
    try:
        header = read_header(job.data)
    except ImageRejected:
        return DecodeResult(reason=reason, error_message=message)
    width, height = shown_size(header.width, header.height, header.orientation)
    return DecodeResult(
        original_width=width,
        original_height=height,
        original_format=header.format,
        reason=reason,
        error_message=message,
    )
