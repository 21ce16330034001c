"""A URL taken apart into what a request needs, or refused."""

import base64
import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from pipelines.stages.download.failure import FetchFailed

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"^[a-z0-9_.-]+$")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT = "/%:@!$&'()*+,;=?-._~[]|"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where one request goes.

    Attributes:
        scheme: http or https.
        host: A name in ASCII or a numeric address without brackets.
        port: 1 to 65535.
        path: Path and query as they are sent; ASCII.
        authorization: The value of a Basic header, from the URL's user information.
        url: The URL as given, without its fragment.
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
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Take a URL apart.

    Raises:
        FetchFailed: `url_invalid`, or `scheme_refused` for anything but http and https.
    """
    url = url.strip(" ")
    if _CONTROL.search(url):
        raise FetchFailed("url_invalid", "the URL has a control character in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchFailed("url_invalid", "the URL cannot be taken apart") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        if not scheme:
            raise FetchFailed("url_invalid", "the URL has no scheme")
        raise FetchFailed("scheme_refused", "only http and https are fetched")
    if port == 0:
        raise FetchFailed("url_invalid", "port 0 cannot be connected to")
    return Target(
        scheme=scheme,
        host=_ascii_host(parts.hostname or ""),
        port=port or _DEFAULT_PORTS[scheme],
        path=_request_path(parts),
        authorization=_authorization(parts),
        url=parts._replace(fragment="").geturl(),
    )


def redirect_target(target: Target, location: str | None) -> Target:
    """The target that a Location header names, seen from `target`.

    The credentials of a URL stay with its own origin.

    Raises:
        FetchFailed: `redirect_invalid`, or `scheme_refused` where it leaves http and https.
    """
    if not location or not location.strip():
        raise FetchFailed("redirect_invalid", "a redirect without a Location")
    # http.client reads headers as Latin-1; servers that do not quote send UTF-8.
    text = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        following = parse_target(urljoin(target.url, text.strip()))
    except ValueError:
        raise FetchFailed("redirect_invalid", "the Location cannot be joined to the URL") from None
    except FetchFailed as failure:
        if failure.reason == "scheme_refused":
            raise
        raise FetchFailed("redirect_invalid", f"in the Location, {failure.message}") from None
    if following.authorization is None and following.origin == target.origin:
        return _with_authorization(following, target.authorization)
    return following


def _with_authorization(target: Target, authorization: str | None) -> Target:
    return Target(**{**vars(target), "authorization": authorization})


def _ascii_host(host: str) -> str:
    if not host:
        raise FetchFailed("url_invalid", "the URL has no host")
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        name = unquote(host).encode("idna").decode("ascii").lower() if not host.isascii() else host
    except UnicodeError:
        raise FetchFailed("url_invalid", "the host name cannot be encoded") from None
    if not _HOST.match(name) or len(name) > 253 or any(len(part) > 63 for part in name.split(".")):
        raise FetchFailed("url_invalid", "the host name has characters or a length it cannot have")
    return name


def _request_path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe=_KEPT, errors="surrogatepass")
    return (
        f"{path}?{quote(parts.query, safe=_KEPT, errors='surrogatepass')}" if parts.query else path
    )


def _authorization(parts: SplitResult) -> str | None:
    if parts.username is None and parts.password is None:
        return None
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode("utf-8", "replace")).decode("ascii")
