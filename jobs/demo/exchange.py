"""A request and its reply, as the handlers of the loopback server see them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request as its handler sees it; `count` is how often this path was asked for, from 1."""

    path: str
    headers: Mapping[str, str]
    count: int


class Reply:
    """Where a handler writes its bytes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._writable.set()

    async def write(self, data: bytes) -> bool:
        """Send bytes, waiting while the client is slow; False once the client has gone."""
        if self._transport.is_closing():
            return False
        self._transport.write(data)
        await self._writable.wait()
        return not self._transport.is_closing()

    def set_writable(self, writable: bool) -> None:
        """Called by the transport when its buffer is full or free again."""
        if writable:
            self._writable.set()
        else:
            self._writable.clear()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()


Handler = Callable[[Request, Reply], Awaitable[None]]
"""Writes a whole response; the connection is closed when it returns."""
