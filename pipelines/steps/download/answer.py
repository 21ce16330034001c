"""The answer to one request, from a connection that gives no other.

http.client parses the status and the framing, as it does for most Python clients. It stops at 100
headers and a line of 64 KiB, gives up the rest of the head at a line that is no header, and takes
the first of two lengths; so the head is read and tidied here before it sees it. What servers get
wrong and every browser reads is read; what could cut or mix bodies is not.
"""

import http.client
import io
import re
from collections.abc import Iterator
from typing import Protocol

from pipelines.steps.download.content_coding import codings_of

_MAX_LINE_BYTES = 66 * 1024
_MAX_LINES = 1000
"""Of all heads of an answer together, those of 1xx answers and the empty lines included."""

_WANTED = frozenset(
    {
        *(b"content-encoding", b"content-length", b"content-range", b"location"),
        *(b"retry-after", b"transfer-encoding", b"x-robots-tag"),
    }
)
_INFORMATIONAL = re.compile(rb"HTTP/\S*\s+1\d\d\b")


class Stream(Protocol):
    """What an answer is read from."""

    def makefile(self, mode: str) -> io.BufferedReader:
        """A buffered reader of the connection."""


class Answer(http.client.HTTPResponse):
    """A response whose head is read; the body is left to be read.

    Attributes:
        lengths: What the Content-Length headers say, where they disagree; the body then reaches
            to the end of the connection.
        codings: What the body is encoded with, in the order applied.
    """

    def __init__(self, stream: Stream) -> None:
        """Read the head.

        Raises:
            OSError, http.client.HTTPException: as the socket and http.client raise them.
        """
        super().__init__(stream, method="GET")  # type: ignore[arg-type]  # only makefile is used
        self.lengths: frozenset[int] = frozenset()
        self.codings: tuple[str, ...] = ()
        self.begin()

    def begin(self) -> None:
        """Read the head; called once."""
        stream = self.fp
        status, headers = _read_head(stream)
        lengths = _content_lengths(headers.pop(b"content-length", []))
        transfer = _words(headers.pop(b"transfer-encoding", []))
        framing = []
        if "chunked" in transfer:
            framing.append(b"transfer-encoding: chunked")
        elif len(lengths) == 1:
            framing.append(b"content-length: %d" % next(iter(lengths)))
        else:
            self.lengths = lengths
        lines = [b"%s: %s" % (name, value) for name, values in headers.items() for value in values]
        self.fp = io.BytesIO(b"\r\n".join([status, *framing, *lines, b"", b""]))  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = stream
        content = _words(headers.get(b"content-encoding", []))
        self.codings = codings_of([*content, *transfer])


def _read_head(stream: io.BufferedReader) -> tuple[bytes, dict[bytes, list[bytes]]]:
    """The status line and the values of the headers that matter, by lower-case name."""
    lines = _lines(stream)
    for status in lines:
        if not status:  # some servers end the answer before with a line too many
            continue
        if not status.startswith(b"HTTP/"):
            raise http.client.BadStatusLine("not a status line")
        headers = _read_headers(lines)
        if not _INFORMATIONAL.match(status):
            return status, headers
    raise http.client.RemoteDisconnected("closed before the answer")


def _read_headers(lines: Iterator[bytes]) -> dict[bytes, list[bytes]]:
    """Up to the empty line; what is no header is passed over."""
    headers: dict[bytes, list[bytes]] = {}
    values: list[bytes] | None = None
    for line in lines:
        if not line:
            break
        if line[:1] in b" \t":  # goes on with the value before
            if values is not None:
                values[-1] += b" " + line.strip()
            continue
        name, colon, value = line.partition(b":")
        name = name.rstrip().lower()
        values = headers.setdefault(name, []) if colon and name in _WANTED else None
        if values is not None:
            values.append(value.strip())
    return headers


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines without their ends, to the end of the connection; the empty ones too."""
    for _ in range(_MAX_LINES):
        line = stream.readline(_MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > _MAX_LINE_BYTES:
            raise http.client.LineTooLong("header line")
        yield line.rstrip(b"\r\n").replace(b"\r", b" ")
    raise http.client.HTTPException("too many header lines")


def _words(values: list[bytes]) -> list[str]:
    text = ",".join(value.decode("latin-1") for value in values).lower()
    return [word.strip() for word in text.split(",") if word.strip()]


def _content_lengths(values: list[bytes]) -> frozenset[int]:
    """The lengths told; none where one of them is no length, as if nothing had been told."""
    try:
        lengths = frozenset(int(word) for word in _words(values))
    except ValueError:
        return frozenset()
    return frozenset() if any(length < 0 for length in lengths) else lengths
