"""Secrets out of everything that is stored or printed: the one place that knows a secret in a text.

A URL may carry user information (`user:password@`) or signed values (S3, GCS, Azure, CloudFront,
tokens and keys of every other kind; `secret_names.py` knows their names). Both are replaced by
`REDACTED`; every other character stays, so that a stored URL still says which image it named. A URL
within a URL is found however often it is percent-encoded. Whatever the text, the time is linear.

`pipelines/redact.py` does tables and configurations with it, `redacted_output.py` what a process
prints.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sd_core.secret_names import decoded_name, is_end, is_secret_name, is_signed_value

REDACTED = "REDACTED"
MAY_HOLD_SECRET: Final = r"(?i)[@=\t\r\n]|%(?:25)*(?:40|3d)|s--"
"""A URL or text without it holds no secret: for a look at many, by RE2 or by Python."""
CREDENTIALS_TOLD = (
    "credentials before a bucket are read by no client; give them in the environment or in "
    "`storage_options`"
)

_MAX_LEVEL: Final = 6
_SEEN_CHARS: Final = 200  # of a name or a value: what tells anything is not longer

_BUCKET_WITH_CREDENTIALS = re.compile(r"(?:s3a?|gc?s)://(?!arn:)[^/]*[:@]")
_LEFT_OUT = re.compile(r"[\t\r\n]")
_SLASHES = re.compile(r"(?i)(?:[/\\]|%(?:25)*(?:2f|5c)){2,}")
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[/\\](?![/\\])")
_DUE = re.compile(r"(?i)(?:.*[:=]|.*[%5]3[ad])?", re.DOTALL)
_AUTHORITY = re.compile(r"[^/\\?#]*")
_NESTED_AUTHORITY = re.compile(r"(?i)(?:(?!%(?:25)*(?:2f|5c|3f|23))[^/\\?#&])*")
_COLON = re.compile(r"(?i)(?:(?!%(?:25)*3a)[^/?#:\[\]])*(?::|%(?:25)*3a)")
_NESTED_COLON = re.compile(r"(?i)(?:(?!%(?:25)*(?:3a|2f|3f|23))[^/?#:&\[\]])*(?::|%(?:25)*3a)")
_PORT = re.compile(r"(?i)\d*(?:[/?#&]|%(?:25)*(?:2f|3f|23|26)|$)")
_BARE = re.compile(r"[^/?#]*")
_AT = re.compile(r"@|%(?:25)*40")
_MARK = re.compile(r"(?i)[?&;#=/]|%(?:25)*(?:3f|26|3b|23|3d|2f)")
_SIGNS: Final = {"3f": "?", "26": "&", "3b": ";", "23": "#", "3d": "=", "2f": "/"}
_URL_IN_TEXT = re.compile(
    r"(?i)(?:(?<=[a-z0-9+.\-]):(?://|\\\\|\\/\\/)|%(?:25)*3a%(?:25)*2f)[^\s<>\"]+"
)
_HTTP = re.compile(r"(?i)\W*https?:")
_IN_PATH = re.compile(
    r"(?i)(?:(?<=/)|(?<=%2f)|(?<=52f))"
    r"(?:(s--)[a-z0-9_\-]{8,32}--|[a-z0-9_\-]{27}(?:=|%(?:25)*3d))(?=/|%(?:25)*2f)"
)
"""What signs in a path: Cloudinary's `s--...--`, and Thumbor's HMAC before the operations."""

_Span = tuple[int, int]


def names_credentials(url: str) -> bool:
    """Whether a bucket's URL has credentials before its bucket, where no client reads them."""
    return bool(_BUCKET_WITH_CREDENTIALS.match(url))


def redact_url(url: str) -> str:
    """The URL without its user information and with signed or secret values replaced.

    Malformed URLs are redacted on the safe side: what may be a password goes. Whoever reads a URL
    leaves tabs and line ends out, so they are left out here where they would hide a secret.
    """
    read = _LEFT_OUT.sub("", url)
    redacted = _redact(read, is_http=_HTTP.match(read) is not None)
    return url if redacted == read else redacted


def redact_text(text: str) -> str:
    """The text with every URL in it redacted."""
    return _URL_IN_TEXT.sub(_redact_match, text)


def _redact_match(found: re.Match[str]) -> str:
    url, before = found.group(), found.string[max(0, found.start() - 5) : found.start()]
    return _redact(url, is_http=before.lower().endswith(("http", "https")))


def _redact(url: str, *, is_http: bool) -> str:
    url = _replaced(url, _user_information(url))
    if is_http:
        url = _IN_PATH.sub(lambda found: f"s--{REDACTED}--" if found[1] else REDACTED, url)
    return _replaced(url, _secret_values(url, is_http=is_http))


def _replaced(text: str, spans: Iterable[_Span]) -> str:
    """`REDACTED` in the place of each span; they come in order."""
    parts, at = [], 0
    for start, end in spans:
        parts += [text[at:start], REDACTED]
        at = end
    return "".join([*parts, text[at:]])


def _user_information(url: str) -> Iterator[_Span]:
    """What stands before an `@` where a host is due."""
    ats = [found.start() for found in _AT.finditer(url)]
    if not ats:
        return
    ends = [at for at, sign in enumerate(url) if sign == "&"] + [len(url)]
    done = 0
    for start, is_nested in _authorities(url):
        if start < done:
            continue
        authority = (_NESTED_AUTHORITY if is_nested else _AUTHORITY).match(url, start)
        at = _last(ats, start, authority.end() if authority else start)
        # What cannot be a port before a later `@` is a password with an unescaped `/`, `?` or `#`.
        host = start if at is None else at + 1
        colon = (_NESTED_COLON if is_nested else _COLON).match(url, host)
        if colon is not None and not _PORT.match(url, colon.end()):
            end = ends[bisect_left(ends, start)] if is_nested else len(url)
            later = _last(ats, colon.end(), end)
            at = at if later is None else later
        if at is not None:
            yield start, at
            done = at


def _authorities(url: str) -> Iterator[tuple[int, bool]]:
    """Where a host is due, and whether in a URL that is percent-encoded in another."""
    bare = _BARE.match(url)
    head = bare.group() if bare else ""
    slashes = _SLASHES.search(url)
    is_url = slashes is not None and "?" not in url[: slashes.start()]
    one = _ONE_SLASH.match(url)
    if not is_url and "@" in head.partition(":")[2]:
        yield 0, False
    elif one is not None:
        yield one.end(), False
    for found in _SLASHES.finditer(url):
        at = found.start()
        if at == 0 or _DUE.fullmatch(url[max(0, at - 3) : at]):
            yield found.end(), found.group()[-1] not in "/\\"


def _last(places: Sequence[int], start: int, end: int) -> int | None:
    """The last of the places from `start` on and before `end`."""
    number = bisect_left(places, end) - 1
    return places[number] if number >= 0 and places[number] >= start else None


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A name and where its value lies; `value` is the beginning of it."""

    name: str
    value: str
    start: int
    end: int
    is_deep: bool


def _secret_values(url: str, *, is_http: bool) -> Iterator[_Span]:
    parameters = _parameters(url, is_http=is_http)
    ends = any(is_end(each.name, each.value) for each in parameters)
    done = 0
    for each in parameters:
        if each.start < done:
            continue
        if (
            each.is_deep
            or is_secret_name(each.name)
            or is_signed_value(each.name, each.value, ends=ends)
        ):
            yield each.start, each.end
            done = each.end


def _parameters(url: str, *, is_http: bool) -> list[_Parameter]:
    """Every `name=value`, those of URLs within values too, in order.

    A value goes up to the next `&` or `#` that is encoded no more often than its `=`; a path's
    (`/token=abc/`, of http alone: elsewhere it is a folder of tables) up to the next `/` or `?`.
    """
    marks = [_mark(found) for found in _MARK.finditer(url)]
    query = next((at for at, _, sign, level in marks if sign in "?#" and not level), len(url))
    ends = {sign: [len(url)] * (_MAX_LEVEL + 1) for sign in ("&", "/")}
    found: list[_Parameter] = []
    for number in range(len(marks) - 1, 0, -1):
        at, start, sign, level = marks[number]
        if sign in "&#":
            ends["&"][level] = at
        if sign in "&#/?":
            ends["/"][level] = at
        _, name_start, before, _ = marks[number - 1]
        in_path = at < query
        if sign != "=" or (in_path and before in "/=" and not is_http):
            continue
        is_deep = level >= _MAX_LEVEL
        kind = ends["/" if in_path and before == "/" else "&"]
        end = kind[0] if is_deep else min(kind[: level + 1])
        if start < end and name_start < at:
            name = decoded_name(url[max(name_start, at - _SEEN_CHARS) : at])
            value = url[start : min(end, start + _SEEN_CHARS)]
            found.append(_Parameter(name, value, start, end, is_deep))
    return found[::-1]


def _mark(found: re.Match[str]) -> tuple[int, int, str, int]:
    """Where a sign that parts names from values lies; which; how often it is encoded."""
    text = found.group()
    sign = text if len(text) == 1 else _SIGNS[text[-2:].lower()]
    return found.start(), found.end(), sign, min((len(text) - 1) // 2, _MAX_LEVEL)
