"""A store that is sick: a proxy before an S3 server, which answers wrongly when it is told to."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """One request on its way to the store: the n-th since the proxy began, from 1."""

    number: int
    method: str
    path: str


Sickness = Callable[[Request], str | None]
"""What is done to a request: one of the names below, or None for the store's own answer.

`503`, `403`, `expired`, `no_bucket`: that answer. `hang`: none. `cut`: half of the store's answer.
`lost`: the store gets the request, and its answer is lost. `slow`: the answer, in drips.
"""


def _error(status: str, code: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close".encode() + _END + body


_ERRORS = {
    "503": _error("503 Service Unavailable", "SlowDown"),
    "403": _error("403 Forbidden", "AccessDenied"),
    "expired": _error("400 Bad Request", "ExpiredToken"),
    "no_bucket": _error("404 Not Found", "NoSuchBucket"),
}


class S3Proxy:
    """Stands before a server from a thread of its own, within its `with` block.

    Attributes:
        url: Its own address.
        sickness: What it does to each request; may be replaced at any time.
        hung_at: When the first request got no answer, by `time.monotonic`.
    """

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._host, self._port = str(parts.hostname), int(parts.port or 80)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="s3-proxy", daemon=True)
        self._count = 0
        self.url = ""
        self.sickness: Sickness = healthy
        self.hung_at: float | None = None

    def __enter__(self) -> "S3Proxy":
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def begin(self, sickness: Sickness) -> None:
        """From now on, and counting from 1, this is done to the requests."""
        self._count, self.sickness, self.hung_at = 0, sickness, None

    def _serve(self) -> None:
        asyncio.run(self._listen())  # which cancels what is still answered, and closes the loop

    async def _listen(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._exchange(reader, writer)
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_END)
        first, *lines = head[: -len(_END)].decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        if "expect" in headers:
            writer.write(b"HTTP/1.1 100 Continue" + _END)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._count += 1
        done = self.sickness(Request(self._count, method, path))
        if done == "hang":
            self.hung_at = self.hung_at or time.monotonic()
            await asyncio.sleep(3600)
        if done in _ERRORS:
            told, end, content = _ERRORS[done].partition(_END)
            writer.write(told + end + (b"" if method == "HEAD" else content))
        else:
            sent = [line for line in lines if line.lower().split(":")[0] not in _OURS]
            await self._pass_on(writer, done, [first, *sent, "Connection: close"], body)
        await writer.drain()

    async def _pass_on(
        self, writer: asyncio.StreamWriter, done: str | None, head: list[str], body: bytes
    ) -> None:
        upstream, to_server = await asyncio.open_connection(self._host, self._port)
        to_server.write("\r\n".join(head).encode("latin-1") + _END + body)
        answer = await upstream.read()
        to_server.close()
        if done == "lost":
            writer.transport.abort()
        elif done == "cut":
            told, _, content = answer.partition(_END)
            writer.write(told + _END + content[: len(content) // 2])
        elif done == "slow":
            for start in range(0, len(answer), 2048):
                writer.write(answer[start : start + 2048])
                await writer.drain()
                await asyncio.sleep(0.02)
        else:
            writer.write(answer)


_OURS = ("expect", "connection")


def healthy(request: Request) -> str | None:
    """Nothing."""
    return None


def always(what: str, *, after: int = 0, methods: str = "GET PUT HEAD POST DELETE") -> Sickness:
    """This, to each request of these methods but the first ones."""
    return lambda request: (
        what if request.number > after and request.method in methods.split() else None
    )


def sometimes(
    what: str, *, share: float, seed: random.Random, methods: str = "GET PUT HEAD POST DELETE"
) -> Sickness:
    """This, to a share of the requests of these methods."""
    return lambda request: (
        what if request.method in methods.split() and seed.random() < share else None
    )
