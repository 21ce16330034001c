"""Connections to checked addresses only, with every socket operation under the URL's deadline."""

import contextlib
import io
import socket
import ssl
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from pipelines.steps.download.addresses import AddressPolicy
from pipelines.steps.download.failure import FetchFailed
from pipelines.steps.download.limits import Deadline
from pipelines.steps.download.target import Target

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_RESET = struct.pack("ii", 1, 0)  # linger for no time
Resolver = Callable[[str, Deadline], list[str]]
"""Host name -> numeric addresses; raises FetchFailed `dns_failed`."""


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until the deadline."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        self._socket.settimeout(self._deadline.remaining_s())
        return self._socket.recv_into(buffer)


class Connection:
    """An open connection to one checked address, for one request and one answer.

    It is never used again, not even for the next redirect: whatever a server sends beyond its
    answer, at once or later, would pass for the answer to the next request. No look at an idle
    socket can rule that out.
    """

    def __init__(self, sock: socket.socket, *, deadline: Deadline) -> None:
        self._socket = sock
        self._deadline = deadline

    def send(self, request: bytes) -> None:
        self._socket.settimeout(self._deadline.remaining_s())
        self._socket.sendall(request)

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader under the deadline."""
        return io.BufferedReader(_DeadlineReader(self._socket, self._deadline), 16384)

    def close(self) -> None:
        """Close the socket, with a reset: by then there is nothing left to be said.

        Otherwise the port would be kept for a minute after every request, and a machine has about
        28,000 of them for one server.
        """
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.close()


class Connector:
    """Opens connections.

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

    def connect(self, target: Target, *, deadline: Deadline) -> Connection:
        """A new connection to the target's origin.

        Raises:
            FetchFailed: `dns_failed`, `address_refused`, `connection_failed`, `tls_failed` or
                `download_timed_out`.
        """
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
                return Connection(self._secured(sock, target, deadline=deadline), deadline=deadline)
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
            # A certificate names its host without the dot that ends a full name.
            return self._tls.wrap_socket(sock, server_hostname=target.host.rstrip("."))
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
