"""SIGINT and SIGTERM end a job in order: the stack unwinds, leases and workers are given back.

A command's process, which is that job's alone, also ends where its stack cannot be unwound, or not
soon: a thread of it keeps the time, gives the leases back and ends it. A crash at any moment loses
nothing, and this is one.
"""

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 2.5  # for the stack to unwind
_LEASES_S = 1.5  # for a store to take the leases back


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
        self.is_timed = False
        """Whether the process is a command's own, and a thread keeps the time."""
        self.seen: int | None = None
        """As that thread sees it, also where a library took the handler."""
        self.at_once = threading.Event()
        self.code: int | None = None
        """What the command ends with, once it is known and told."""

    def stop(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:  # a second one must not end the cleaning up after the first
            return
        self.number = number
        if self.is_timed and _is_importing(frame):  # C++ that imports a module may abort on this
            self.at_once.set()
            return
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
    number = _asked.number or _asked.seen
    return None if number is None else signal.Signals(number)


def end_in_time() -> None:
    """Have this process, a command's own, end within 5 s of a signal, whatever it is at.

    Before the command's work begins, and after it ended, a signal ends the process at once.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    _asked.is_timed = True
    sys.unraisablehook = _tell_but_a_stop
    atexit.register(_leave)  # as the first, which is called as the last
    for number in _SIGNALS:
        signal.signal(number, lambda *_: _asked.at_once.set())
    threading.Thread(target=_keep_time, args=(ours, theirs), name="stopping", daemon=True).start()


def ends_with(code: int) -> None:
    """The command has come to its end, and told it: a late signal changes that no more."""
    _asked.code = code


def _keep_time(ours: socket.socket, theirs: socket.socket) -> None:
    """The thread that ends the process; `theirs` is only kept open."""
    while (number := ours.recv(1)[0]) not in _SIGNALS:
        continue
    _asked.seen = number
    _asked.at_once.wait(_PATIENCE_S)
    returning = threading.Thread(target=_return_leases, daemon=True)
    returning.start()
    returning.join(_LEASES_S)
    if _asked.code is None:
        os.write(2, f"{stop_message(signal.Signals(number))}\n".encode())
    os._exit(128 + number if _asked.code is None else _asked.code)


def _leave() -> None:
    """Leave at once: to take torch, Ray and diffusers apart takes seconds, and does nothing."""
    if _asked.code is not None:
        with suppress(OSError, ValueError):  # nobody reads any more
            sys.stdout.flush()
        os._exit(_asked.code)


def stop_message(number: signal.Signals) -> str:
    """The one line that a stopped job ends with."""
    return f"stopped by {number.name}: the same command goes on"


def _return_leases() -> None:
    lease = sys.modules.get("pipelines.run.lease")  # where it was never loaded, none is held
    if lease is not None:
        lease.return_all()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _tell_but_a_stop(unraisable: "sys.UnraisableHookArgs") -> None:
    """Where a destructor or a callback swallows a stop, nothing unwinds any more."""
    if isinstance(unraisable.exc_value, SystemExit):
        _asked.at_once.set()
    else:
        sys.__unraisablehook__(unraisable)
