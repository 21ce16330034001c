"""A web server on loopback: a folder of files, fast, and every kind of bad URL under `/bad/`.

Run it in a process of its own with `python -m jobs.demo.server FOLDER --port 8000`, or in a
thread with `LoopbackServer`.
"""

import argparse
import asyncio
import contextlib
import mimetypes
import ssl
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from jobs.demo.bad_answers import ANSWERS
from jobs.demo.exchange import Handler, Reply, Request

_MAX_HEAD_BYTES = 64 * 1024


class LoopbackServer:
    """Serves from a thread of its own while its `with` block runs.

    Args:
        folder: Its files are served under their relative paths; None serves only handlers.
        handlers: Path -> handler; those of `ANSWERS` are always there, as `/bad/<name>`.
        delay_s: Wait before each answer.
        port: 0 for any free one.
        tls: Serve https instead.

    Attributes:
        url: `http://127.0.0.1:<port>`, once it runs.
        hits: Path -> number of requests.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        handlers: Mapping[str, Handler] | None = None,
        delay_s: float = 0.0,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder.resolve() if folder else None
        self.handlers = {f"/bad/{name}": handler for name, handler in ANSWERS.items()}
        self.handlers |= handlers or {}
        self.delay_s = delay_s
        self.hits: Counter[str] = Counter()
        self.url = ""
        self._port = port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: OSError | None = None
        self.transports: set[asyncio.Transport] = set()  # kept by the connections themselves
        self._thread = threading.Thread(target=self._run, name="loopback-server", daemon=True)

    def __enter__(self) -> "LoopbackServer":
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def serve_forever(self) -> None:
        """Serve in this thread until it is interrupted."""
        self._run()

    def file_response(self, path: str) -> bytes:
        """The whole response for a path of the folder; 404 outside it."""
        if self.folder is not None:
            file = (self.folder / unquote(path).lstrip("/")).resolve()
            if file.is_relative_to(self.folder) and file.is_file():
                body = file.read_bytes()
                kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
                return head.encode() + b"\r\n\r\n" + body
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            listening = self._loop.run_until_complete(
                self._loop.create_server(
                    lambda: _Exchange(self), "127.0.0.1", self._port, ssl=self._tls, backlog=1024
                )
            )
        except OSError as error:
            self._error = error
            self._loop.close()
            return
        finally:
            if self._error is not None:
                self._ready.set()
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        self._ready.set()
        try:
            self._loop.run_forever()
        finally:
            listening.close()
            self._loop.run_until_complete(self._drop_connections())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _drop_connections(self) -> None:
        for transport in list(self.transports):
            transport.abort()
        while self.transports:
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Exchange(asyncio.Protocol):
    """One connection: requests in, responses out, one after the other."""

    def __init__(self, server: LoopbackServer) -> None:
        self._server = server
        self._received = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._reply = Reply(transport)
        self._server.transports.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.transports.discard(self._transport)
        self._reply.set_writable(True)
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._reply.set_writable(False)

    def resume_writing(self) -> None:
        self._reply.set_writable(True)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received[:1].isupper():  # not HTTP: a TLS greeting, say
            self._transport.abort()
            return
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > _MAX_HEAD_BYTES:
                self._transport.abort()
            return
        self._received = rest
        self._answer(_parse(head, self._server.hits))

    def _answer(self, request: Request) -> None:
        handler = self._server.handlers.get(request.path)
        if handler is None and not self._server.delay_s:
            self._transport.write(self._server.file_response(request.path))
            return
        self._task = asyncio.get_running_loop().create_task(self._answer_later(request, handler))

    async def _answer_later(self, request: Request, handler: Handler | None) -> None:
        await asyncio.sleep(self._server.delay_s)
        if handler is None:
            self._transport.write(self._server.file_response(request.path))
            return
        with contextlib.suppress(ConnectionError):
            await handler(request, self._reply)
        self._transport.close()


def _parse(head: bytes, hits: Counter[str]) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    path = first.split(" ")[1].split("?")[0] if first.count(" ") >= 2 else "/"
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    hits[path] += 1
    return Request(path=path, headers=headers, count=hits[path])


def main() -> None:
    """Serve a folder until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--delay-s", type=float, default=0.0)
    arguments = parser.parse_args()
    server = LoopbackServer(arguments.folder, port=arguments.port, delay_s=arguments.delay_s)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
