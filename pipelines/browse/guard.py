"""Who may ask the server, and what a browser may do with its answers."""

import hmac
import ipaddress
import secrets
import socket
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Scripts, styles and pictures of this server alone; nothing becomes markup."""
_HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
    "Server": "latent-foundry",
}
_TOKEN_BYTES: Final = 32


def is_loopback(host: str) -> bool:
    """Whether an address (or `localhost`) can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """The token that every path begins with, and the hosts that a request may name.

    A page elsewhere whose name is made to lead to this machine (DNS rebinding) still asks by that
    name: so a host is an address, this machine's name, or the one that was given.

    Attributes:
        token: Of this server, made by chance.
        ticket: Good once, for the browser that is opened: other users of the machine can see the
            command that opens it.
    """

    def __init__(self, host: str) -> None:
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.ticket = secrets.token_urlsafe(_TOKEN_BYTES)
        self._is_spent = False
        self._is_local = is_loopback(host)
        self._names = {host.lower(), "localhost"}
        if not self._is_local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def knows(self, host: str | None) -> bool:
        """Whether a request's `Host` is one that this server is asked by."""
        name = (host or "").lower()
        name = name[: name.rindex(":")] if name.rpartition(":")[2].isdecimal() else name
        name = name.removeprefix("[").removesuffix("]")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._is_local

    def lets_in(self, token: str) -> bool:
        """Whether it is the token, found out in the same time whatever was given."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def takes(self, ticket: str) -> bool:
        """As `lets_in`, of the ticket, the first time."""
        is_right = hmac.compare_digest(ticket.encode(), self.ticket.encode())
        was_spent, self._is_spent = self._is_spent, self._is_spent or is_right
        return is_right and not was_spent

    @property
    def middleware(self) -> Middleware:
        """What every request passes, and every answer gets."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await self._answer(request, handler)
            answer.headers.update(_HEADERS)
            return answer

        return guarded

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self.knows(request.headers.get("Host")):
            return web.Response(status=421, text="this server is not asked by that name\n")
        given = request.path.removeprefix("/").partition("/")[0]  # `*`, or nothing, has no /
        if not self.lets_in(given):
            if self.takes(given):
                return web.Response(status=302, headers={"Location": f"/{self.token}/"})
            return web.Response(
                status=403, text="not let in: open the address that the command printed\n"
            )
        try:
            return await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n")
