"""Fresh processes at the price of a fork: what decodes is a copy of one that never decoded.

Replacing a decoder whose memory is no longer to be trusted would cost the imports, half a second
and more. So the process that imports does nothing else: it forks the one that decodes, and forks
the next when that one retires. The copies share its memory until they write to it, and its pipes,
so that a successor goes on with the next image.
"""

import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

_RETIRED = 13  # exit status of a life whose successor is wanted
_PARENT_CHECK_S = 1.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


def run_lives(live: Callable[[], bool], *, parent: int) -> NoReturn:
    """Runs `live` in forks of this process, one after another, and ends as the last one ended.

    Args:
        live: One life; True when it retires and a successor is to go on.
        parent: Process id of this process's parent; with it, everything here ends.
    """
    while True:
        status = _one_life(live, parent)
        if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != _RETIRED:
            _end_like(status)


def is_orphan(parent: int) -> bool:
    """Whether the parent with that process id is gone."""
    return os.getppid() != parent


def _one_life(live: Callable[[], bool], parent: int) -> int:
    """Forks, waits for the end of the fork, and returns its wait status."""
    ended, alive = os.pipe()  # the fork alone holds the writing end: it closes when that one dies
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        _live_and_exit(live, supervisor)
    os.close(alive)
    while not select.select([ended], [], [], _PARENT_CHECK_S)[0]:
        if is_orphan(parent):
            os.kill(pid, signal.SIGKILL)
    os.close(ended)
    return os.waitpid(pid, 0)[1]


def _live_and_exit(live: Callable[[], bool], supervisor: int) -> NoReturn:
    status = 1
    try:
        _die_with(supervisor)
        status = _RETIRED if live() else 0
    finally:
        os._exit(status)  # nothing of the supervisor's is ours to clean up


def _die_with(supervisor: int) -> None:
    """Linux kills this process when the one that forked it dies; elsewhere it has to look."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if is_orphan(supervisor):
        os._exit(0)


def _end_like(status: int) -> NoReturn:
    """Ends this process as a fork with that wait status ended: so the parent sees why."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)
