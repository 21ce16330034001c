"""One way to take a URL apart, for fetching, block lists, takedowns and domain caps alike.

URLs are read as browsers read them (WHATWG URL Standard, by ada): hosts through UTS 46 and
percent-decoding, odd forms of IPv4 addresses as the address they stand for, backslashes as
slashes, dot segments resolved, tabs and line ends dropped. What stands around a URL without being
seen (no-break, ideographic and zero-width spaces) goes first, which the standard does not ask for.
"""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from ada_url import URL

DEFAULT_PORTS = {"http": 80, "https": 443}

_CONTROLS_AND_SPACE = "".join(map(chr, range(0x21)))
_UNSEEN = (
    "\x7f\x85\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180e"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e"
    "\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u202f\u205f\u2060\u2061\u2062\u2063\u2064"
    "\u2066\u2067\u2068\u2069\u3000\u3164\ufeff\uffa0"
)
_AROUND = _CONTROLS_AND_SPACE + _UNSEEN
_KEPT_IN_URL = "!$%&'()*+,-./:;=?@_~[]"
_NOT_IN_A_HOST = frozenset("/\\?#@: \t\r\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedUrl:
    """A URL's parts, each in ASCII.

    Attributes:
        scheme: In lower case.
        host: A lower-case name in its DNS form, or a numeric address without brackets; "" where
            the scheme has none.
        port: None where it is the scheme's own.
        path: Path and query as a request sends them.
        username, password: Percent-encoded.
        href: The URL as the standard writes it, without its fragment; may hold credentials.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    username: str
    password: str
    href: str


def clean_url(text: str) -> str:
    """The text without the spaces, control and unseen characters around it."""
    return text.strip(_AROUND)


def parse_url(text: str, *, base: str | None = None) -> ParsedUrl:
    """Take a URL apart.

    Args:
        base: The URL that a relative one is seen from.

    Raises:
        ValueError: it is no URL; of a lone surrogate, as UnicodeEncodeError.
    """
    url = URL(clean_url(text), base)
    if "#" in text:
        del url.hash
    port = url.port
    return ParsedUrl(
        scheme=url.protocol[:-1],
        host=url.hostname.removeprefix("[").removesuffix("]"),
        port=int(port) if port else None,
        path=url.pathname + url.search,
        username=url.username,
        password=url.password,
        href=url.href,
    )


def normalise_url(text: str) -> str:
    """The URL with what makes no difference to the server levelled.

    Beside what the standard levels, the host without a trailing dot, no user information, no
    fragment, an empty query left out, and every unusual character of path and query
    percent-encoded. What is no http or https URL stays as it is, without the spaces around it.
    """
    text = clean_url(text)
    try:
        url = parse_url(text)
    except ValueError:
        return text
    host = url.host.rstrip(".") or url.host
    if url.scheme not in DEFAULT_PORTS or not host:
        return text
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{host}{port}{quote(url.path, safe=_KEPT_IN_URL)}"


def url_host(text: str) -> str:
    """The host of a URL without a trailing dot; "" where it has none."""
    text = clean_url(text)
    if text.startswith(("//", "\\\\")):
        text = f"http:{text}"
    try:
        return parse_url(text).host.rstrip(".").lower()
    except ValueError:
        return ""


@lru_cache(maxsize=65_536)
def normalise_host(name: str) -> str:
    """A host name, or a numeric address, as `url_host` gives it; "" where it is none."""
    name = clean_url(name).removeprefix("[").removesuffix("]")
    if ":" in name:
        return url_host(f"http://[{name}]/")
    return "" if _NOT_IN_A_HOST.intersection(name) else url_host(f"http://{name}/")
