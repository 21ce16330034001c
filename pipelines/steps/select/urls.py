"""URLs of a column, compared and grouped: plain ones all at once, the others one by one."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.urls import normalise_url, url_host
from sd_core.redact import REDACTED

# What `normalise_url` leaves as it is: a lower-case host that is no number, no port, a path
# without dot segments, plain characters, a query that is not empty.
_HOST = r"(?:[a-z0-9_-]+\.)*[a-z_][a-z0-9_-]*"
_PLAIN = rf"^https?://{_HOST}/[A-Za-z0-9$%&()*+,./:;=?@_~!-]*$"
_NOT_PLAIN = r"/(?:\.|%2[eE]){1,2}(?:[/?]|$)|\?$|//(?:[^/]*\.)?xn--"


def comparable_urls(urls: pa.Array) -> pa.Array:
    """Normalised, so that equal ones name one picture; null where that cannot be said.

    A URL of which something is redacted is null: what was replaced may be what told it apart.
    """
    plain = _plain(urls)
    rest = pc.and_(pc.invert(plain), pc.is_valid(urls))
    if pc.any(rest).as_py():
        levelled = [normalise_url(url) for url in urls.filter(rest).to_pylist()]
        urls = pc.replace_with_mask(urls, rest, pa.array(levelled, urls.type))
    secret = pc.match_substring(urls, REDACTED)
    return pc.if_else(pc.fill_null(secret, False), pa.scalar(None, urls.type), urls)


def domains(urls: pa.Array) -> pa.Array:
    """Each URL's host without `www.`; null where it has none."""
    plain = _plain(urls)
    hosts = pc.struct_field(pc.extract_regex(urls, rf"^https?://(?P<host>{_HOST})/"), "host")
    rest = pc.and_(pc.invert(plain), pc.is_valid(urls))
    if pc.any(rest).as_py():
        others = [url_host(url) or None for url in urls.filter(rest).to_pylist()]
        hosts = pc.replace_with_mask(hosts, rest, pa.array(others, pa.string()))
    return pc.replace_substring_regex(hosts, r"^www\.", "")


def _plain(urls: pa.Array) -> pa.Array:
    """Which URLs are in their normal form already, as far as a look can tell."""
    plain = pc.match_substring_regex(urls, _PLAIN)
    odd = pc.match_substring_regex(urls, _NOT_PLAIN)
    return pc.fill_null(pc.and_(plain, pc.invert(odd)), False)
