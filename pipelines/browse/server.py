"""The server of the page: in a thread of its own, while its `with` block runs."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Coroutine
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from pipelines.browse.api import Api, static_routes
from pipelines.browse.guard import Guard, is_loopback
from pipelines.browse.table import RowsTable
from pipelines.run.reader import Run
from pipelines.run.spool_folder import spool_folder
from sd_core.errors import InputError
from sd_core.say import Say

_PATIENCE_S: Final = 1.0
_REFUSED: Final = {
    errno.EADDRINUSE: "is taken; give another --port, or 0 for any that is free",
    errno.EACCES: "may not be used by this user; give a --port above 1023",
    errno.EADDRNOTAVAIL: "is not an address of this machine; give another --host",
}


class BrowseServer:
    """Serves the page of a run.

    Args:
        run: Of which select is complete.
        host: An address of this machine, or `localhost`.
        port: 0 for any that is free.
        say: Told how far the ledger is read.

    Attributes:
        url: Where the page is, with the token, once it runs.
        ticket_url: Leads there once.
    """

    def __init__(
        self, run: Run, *, host: str = "127.0.0.1", port: int = 0, say: Say = lambda line: None
    ) -> None:
        self._run, self._host, self._port, self._say = run, host, port, say
        self._guard = Guard(host)
        self._held = ExitStack()
        self.url = self.ticket_url = ""

    def __enter__(self) -> Self:
        """Read the ledger, then listen.

        Raises:
            InputError: the port is taken, or may not be used; the host has no address.
            IncompleteRunError, ShardError: as `Run.ledger`.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(spool_folder())
            table = stack.enter_context(closing(RowsTable(self._run, folder, say=self._say)))
            app = web.Application(middlewares=[self._guard.middleware])
            app.add_routes([*Api(table).routes(), *static_routes()])
            self._loop = stack.enter_context(closing(asyncio.new_event_loop()))
            thread = threading.Thread(target=self._loop.run_forever, name="browse", daemon=True)
            thread.start()
            stack.callback(thread.join, _PATIENCE_S)
            stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)
            runner = web.AppRunner(
                app, access_log=None, logger=_quiet_logger(), shutdown_timeout=_PATIENCE_S
            )
            stack.callback(self._do, self._leave(runner))
            self._do(self._listen(runner))
            self._held = stack.pop_all()
        return self

    async def _listen(self, runner: web.AppRunner) -> None:
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except (socket.gaierror, UnicodeError):
            raise InputError(
                f"--host {self._host}: that name has no address; give an address of this machine"
            ) from None
        except OSError as error:
            if (told := _REFUSED.get(error.errno or 0)) is None:
                raise
            raise InputError(f"{self._host}, port {self._port}: {told}") from None
        port = runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}/{self._guard.token}/"
        self.ticket_url = f"http://{host}:{port}/{self._guard.ticket}/"

    async def _leave(self, runner: web.AppRunner) -> None:
        await runner.cleanup()
        await self._loop.shutdown_default_executor()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()


def _quiet_logger() -> logging.Logger:
    """Says what is wrong with the server, with its trace, and nothing of requests that are no
    HTTP: whoever asks is answered 400."""

    def is_ours(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))

    logger = logging.getLogger(__name__)
    logger.addFilter(is_ours)
    return logger


def check_host(host: str, *, allow_others: bool) -> None:
    """Raise `InputError` where others than this machine could ask, and that was not allowed."""
    if not allow_others and not is_loopback(host):
        raise InputError(
            f"--host {host}: could be asked by other machines, whose users would see every "
            "picture if they had the address; give 127.0.0.1, or --allow-others as well"
        )
