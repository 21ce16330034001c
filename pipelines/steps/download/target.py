"""A URL taken apart into what a request needs, or refused."""

import base64
import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from pipelines.rows.urls import DEFAULT_PORTS, ParsedUrl, parse_url
from pipelines.steps.download.failure import FetchFailed

MAX_URL_BYTES: Final = 16 << 10
_HOST = re.compile(r"[a-z0-9_.-]+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_NOT_SENT = re.compile(r"[^!#-;=?-\[\]_a-z|~]")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one request goes.

    Attributes:
        scheme: http or https.
        host: A name in ASCII or a numeric address without brackets.
        port: 1 to 65535.
        path: Path and query as they are sent; ASCII.
        authorization: The value of a Basic header, from the URL's user information.
        url: The URL as the standard writes it, without its fragment.
    """

    scheme: str
    host: str
    port: int
    path: str
    authorization: str | None
    url: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What a connection, and a credential, belongs to."""
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        """The Host header; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def redirect_target(target: Target, location: str | None) -> Target:
    """The target that a Location header names, seen from `target`.

    The credentials of a URL stay with its own origin.

    Args:
        location: As http.client gives it: bytes read as Latin-1.

    Raises:
        FetchFailed: `redirect_invalid`, or `scheme_refused` where it leaves http and https.
    """
    if not location or not location.strip():
        raise FetchFailed("redirect_invalid", "a redirect without a Location")
    # Bytes that are not quoted go back as they came, whether they are Latin-1 or UTF-8.
    quoted = _NOT_ASCII.sub(lambda match: f"%{ord(match.group()):02X}", location)
    try:
        following = parse_target(quoted, base=target.url)
    except FetchFailed as failure:
        if failure.reason == "scheme_refused":
            raise
        try:
            following = parse_target(location, base=target.url)  # the host may be in Latin-1
        except FetchFailed:
            message = f"in the Location, {failure.message}"
            raise FetchFailed("redirect_invalid", message) from None
    if following.authorization is None and following.origin == target.origin:
        return replace(following, authorization=target.authorization)
    return following


def parse_target(url: str, *, base: str | None = None) -> Target:
    """Take a URL apart, relative to `base` where it is given.

    Raises:
        FetchFailed: `url_invalid`, `url_too_long`, or `scheme_refused` for anything but http and
            https.
    """
    if len(url.encode("utf-8", "surrogatepass")) > MAX_URL_BYTES:
        raise FetchFailed("url_too_long", f"more than {MAX_URL_BYTES} bytes")
    try:
        parsed = parse_url(url, base=base)
    except ValueError:  # of a lone surrogate, a UnicodeEncodeError
        raise FetchFailed("url_invalid", "the URL cannot be taken apart") from None
    if parsed.scheme not in DEFAULT_PORTS:
        raise FetchFailed("scheme_refused", "only http and https are fetched")
    if parsed.port == 0:
        raise FetchFailed("url_invalid", "port 0 cannot be connected to")
    return Target(
        scheme=parsed.scheme,
        host=_checked_host(parsed.host),
        port=parsed.port or DEFAULT_PORTS[parsed.scheme],
        path=_NOT_SENT.sub(lambda match: quote(match.group()), parsed.path),
        authorization=_authorization(parsed),
        url=parsed.href,
    )


def _checked_host(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if not _HOST.fullmatch(host) or len(host) > 253 or any(len(part) > 63 for part in labels):
        raise FetchFailed("url_invalid", "the host name has characters or a length it cannot have")
    return host


def _authorization(parsed: ParsedUrl) -> str | None:
    if not parsed.username and not parsed.password:
        return None
    pair = unquote_to_bytes(parsed.username) + b":" + unquote_to_bytes(parsed.password)
    return "Basic " + base64.b64encode(pair).decode("ascii")
