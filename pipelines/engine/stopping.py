"""SIGINT and SIGTERM end a job in order: the stack unwinds, leases and workers are given back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """A signal asked the job to end. No failure, and nothing that catches those may catch it.

    Attributes:
        signal: Which one; the exit code is 128 + its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class _Asked:
    """What was asked of this process; a signal is its, whoever handles it."""

    def __init__(self) -> None:
        self.is_open = False
        self.number: int | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:  # a second one must not end the cleaning up after the first
            self.number = number
            raise Stopped(number)


_asked = _Asked()


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, the first SIGINT or SIGTERM raises `Stopped` in the main thread.

    In another thread, or within another one, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread() or _asked.is_open:
        yield
        return
    _asked.is_open = True
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handle_signals()
    try:
        yield
    finally:
        _asked.is_open, _asked.number = False, None
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def handle_signals() -> None:
    """Take the signals again, after a library that took them for itself (Ray does)."""
    if _asked.is_open and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, _asked.stop)


def check_stopped() -> None:
    """Raise `Stopped` where a signal came and what it raised was swallowed on its way."""
    if (found := asked_to_stop()) is not None:
        raise Stopped(found)


def asked_to_stop() -> signal.Signals | None:
    """The signal that asked the present `stoppable` job to end, if any did."""
    return None if _asked.number is None else signal.Signals(_asked.number)
