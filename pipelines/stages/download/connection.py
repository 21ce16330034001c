"""Connections to checked addresses only, with every socket operation under the URL's deadline."""

import http.client
import io
import socket
import ssl
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from pipelines.stages.download.addresses import AddressPolicy
from pipelines.stages.download.failure import FetchFailed
from pipelines.stages.download.limits import Deadline
from pipelines.stages.download.target import Target

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Resolver = Callable[[str, Deadline], list[str]]
"""Host name -> numeric addresses; raises FetchFailed `dns_failed`."""

_MAX_IDLE_PER_ORIGIN = 32
_MAX_IDLE = 128


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the connection's current deadline."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return self._connection.receive_into(buffer)


class Connection:
    """One open connection to one checked address."""

    def __init__(self, sock: socket.socket, *, target: Target) -> None:
        self._socket = sock
        self.origin = target.origin
        self.is_reused = False
        self.deadline: Deadline | None = None

    def send_request(self, request: bytes) -> http.client.HTTPResponse:
        """Send a GET and read the response's headers; the body is left to be read.

        Raises:
            OSError, http.client.HTTPException: as the socket and http.client raise them.
        """
        self._socket.settimeout(self._remaining_s())
        self._socket.sendall(request)
        # HTTPResponse wants of its socket only makefile().
        response = http.client.HTTPResponse(self, method="GET")  # type: ignore[arg-type]
        response.begin()
        return response

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader under the deadline; closing it leaves the connection open."""
        return io.BufferedReader(_DeadlineReader(self), 16384)

    def receive_into(self, buffer: "WriteableBuffer") -> int:
        """One recv under what is left of the deadline."""
        self._socket.settimeout(self._remaining_s())
        return self._socket.recv_into(buffer)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _remaining_s(self) -> float:
        if self.deadline is None:
            raise RuntimeError("a connection is used without a deadline")
        return self.deadline.remaining_s()


class Connector:
    """Opens connections, and keeps idle ones for the next request to the same origin.

    A name is resolved once per connection and the socket is connected to the very address that
    was checked, so a name that changes its mind in between gains nothing.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolver: Resolver,
        connect_timeout_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls or ssl.create_default_context()
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}

    def connect(self, target: Target, *, deadline: Deadline, fresh: bool = False) -> Connection:
        """An open connection to the target's origin, an idle one where there is one.

        Args:
            fresh: Never an idle one.

        Raises:
            FetchFailed: `dns_failed`, `address_refused`, `connection_failed`, `tls_failed` or
                `download_timed_out`.
        """
        connection = None if fresh else self._take_idle(target)
        if connection is None:
            connection = Connection(self._open(target, deadline=deadline), target=target)
        connection.deadline = deadline
        return connection

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose response was read to its end."""
        connection.deadline = None
        connection.is_reused = True
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            if len(idle) < _MAX_IDLE_PER_ORIGIN:
                idle.append(connection)
                connection = None  # type: ignore[assignment]
            stale = self._evict()
        for other in [connection, *stale]:
            if other is not None:
                other.close()

    def close(self) -> None:
        """Close every idle connection."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()

    def _take_idle(self, target: Target) -> Connection | None:
        with self._lock:
            idle = self._idle.pop(target.origin, None)
            if not idle:
                return None
            connection = idle.pop()
            if idle:
                self._idle[target.origin] = idle  # used last, evicted last
            return connection

    def _evict(self) -> list[Connection]:
        stale: list[Connection] = []
        while sum(map(len, self._idle.values())) > _MAX_IDLE:
            stale += self._idle.pop(next(iter(self._idle)))
        return stale

    def _open(self, target: Target, *, deadline: Deadline) -> socket.socket:
        addresses = self._addresses(target.host, deadline=deadline)
        allowed = [address for address in addresses if self._policy.allows(address)]
        if not allowed:
            raise FetchFailed("address_refused", "the host's address is not public, nor allowed")
        timed_out = False
        for address in allowed:
            try:
                sock = self._connect_to(address, target.port, deadline=deadline)
            except TimeoutError:
                timed_out = True
            except OSError:
                continue
            else:
                return self._secured(sock, target, deadline=deadline)
        deadline.remaining_s()
        if timed_out:
            raise FetchFailed(
                "download_timed_out",
                f"no connection within {self._connect_timeout_s:g} s",
                retryable=True,
            )
        raise FetchFailed("connection_failed", "the host refused the connection", retryable=True)

    def _addresses(self, host: str, *, deadline: Deadline) -> list[str]:
        try:
            return [str(ip_address(host))]
        except ValueError:
            return self._resolver(host, deadline)

    def _connect_to(self, address: str, port: int, *, deadline: Deadline) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(min(self._connect_timeout_s, deadline.remaining_s()))
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _secured(self, sock: socket.socket, target: Target, *, deadline: Deadline) -> socket.socket:
        if target.scheme == "http":
            return sock
        try:
            sock.settimeout(min(self._connect_timeout_s, deadline.remaining_s()))
            return self._tls.wrap_socket(sock, server_hostname=target.host)
        except TimeoutError:
            sock.close()
            deadline.remaining_s()
            raise FetchFailed(
                "download_timed_out", "the TLS handshake took too long", retryable=True
            ) from None
        except (ssl.SSLError, ValueError):
            sock.close()
            raise FetchFailed("tls_failed", "no verified TLS connection to the host") from None
        except OSError:
            sock.close()
            raise FetchFailed(
                "connection_failed", "the host broke off the TLS handshake", retryable=True
            ) from None
