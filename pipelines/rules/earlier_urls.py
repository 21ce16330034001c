"""URLs in the normal form that tombstones were made of up to version 0.1.

What was taken down then is kept as digests of this form, so it is asked for as long as there are
such runs. Never change it.
"""

from urllib.parse import quote, unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT_IN_URL = "!$%&'()*+,-./:;=?@_~[]"


def earlier_url(url: str) -> str:
    """The URL as it was normalised."""
    text = url.strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return text
    if not parts.scheme or not parts.hostname:
        return text
    host = earlier_host(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    if port is not None and port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    rest = quote(f"{parts.path or '/'}{query}", safe=_KEPT_IN_URL, errors="surrogatepass")
    return f"{parts.scheme}://{host}{rest}"


def earlier_host(host: str) -> str:
    """A host name as it was normalised: by IDNA 2003."""
    name = unquote(host).strip().rstrip(".").lower()
    if name.isascii():
        return name
    for dot in "。．｡":
        name = name.replace(dot, ".")
    try:
        return name.encode("idna").decode("ascii").rstrip(".")
    except UnicodeError:
        return name.rstrip(".")


def earlier_url_host(url: str) -> str:
    """The host of a URL as it was normalised; "" where it had none."""
    try:
        return earlier_host(urlsplit(url.strip()).hostname or "")
    except ValueError:
        return ""
