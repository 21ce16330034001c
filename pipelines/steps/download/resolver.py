"""Names to addresses through the system's resolver, under a deadline and with a short memory."""

import socket
import threading
import time
from concurrent.futures import Future

from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.limits import Deadline

_PASSING_ERRORS = {socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY, socket.EAI_SYSTEM}
_REMEMBER_S = 30.0
_MAX_REMEMBERED = 4096


class SystemResolver:
    """Resolves names, remembering answers (not failures) for a short while.

    getaddrinfo takes no timeout, so each lookup runs in a thread of its own that a missed deadline
    leaves behind; the system's resolver ends it within its own time limit. What is remembered is
    checked at every connection, as a new answer is.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, list[str]]] = {}

    def __call__(self, host: str, deadline: Deadline) -> list[str]:
        """The addresses of a host.

        Raises:
            FetchFailed: `dns_failed` or `download_timed_out`.
        """
        now = time.monotonic()
        with self._lock:
            expires, addresses = self._known.get(host, (0.0, []))
        if expires > now:
            return addresses
        addresses = _look_up(host, deadline)
        with self._lock:
            while len(self._known) >= _MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[host] = now + _REMEMBER_S, addresses
        return addresses


def _look_up(host: str, deadline: Deadline) -> list[str]:
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        return answer.result(timeout=deadline.remaining_s())
    except TimeoutError:
        raise deadline.missed() from None
    except (OSError, UnicodeError) as error:
        code = error.errno if isinstance(error, socket.gaierror) else None
        raise FetchFailed(
            "dns_failed", "the host name has no address", retryable=code in _PASSING_ERRORS
        ) from None
