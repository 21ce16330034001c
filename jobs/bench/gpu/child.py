"""The process that the items work in: one after another, until one fails or is too slow."""

import sys
import time
import traceback
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from jobs.bench.gpu.item import Figure, Place

_LEAVING_S = 5.0


class Child:
    """Started when it is first needed, and anew after an end that it did not choose."""

    def __init__(self) -> None:
        self._process: Any = None
        self._talk: Connection | None = None
        self._is_busy = False

    def starting_s(self, seconds: float) -> float:
        """These seconds where a process is still to be started, else none."""
        return 0.0 if self._is_there() else seconds

    def _is_there(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def begin(self, name: str, place: Place) -> None:
        """Give it an item."""
        if not self._is_there():
            context = get_context("spawn")
            self._talk, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
        assert self._talk is not None
        self._talk.send((name, place))
        self._is_busy = True

    def next(self, timeout_s: float) -> Figure | str | None:
        """The item's next figure; None at its end.

        Returns:
            A text where it failed.

        Raises:
            TimeoutError: nothing came in time.
        """
        assert self._talk is not None
        if not self._talk.poll(max(0.0, timeout_s)):
            raise TimeoutError
        try:
            told: Figure | str | None = self._talk.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            self.end()
            return "its process died"
        self._is_busy = isinstance(told, Figure)
        return told

    def end(self) -> None:
        """End the process: as it likes where it has nothing to do, else at once."""
        if self._process is not None:
            assert self._talk is not None
            self._talk.close()
            self._process.join(0.0 if self._is_busy else _LEAVING_S)
            self._process.kill()
            self._process.join()
        self._process = None


def _serve(talk: Connection) -> None:
    while True:
        try:
            name, place = talk.recv()
        except EOFError:
            return
        try:
            from jobs.bench.gpu.items import ITEMS

            for figure in ITEMS[name](place):
                talk.send(figure)
        except BaseException as error:  # whatever a device may raise
            traceback.print_exc(file=sys.stderr)
            lines = str(error).strip().splitlines() or [""]
            talk.send(f"{type(error).__name__}: {lines[0]}"[:300])
            time.sleep(0.1)  # a device that has failed fails all that comes after
            return
        talk.send(None)
