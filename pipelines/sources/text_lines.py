"""Lists that are text, as lines: encodings, byte order marks, and every kind of line end."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import EARLIER_READER

MAX_RECORD_BYTES = 16 << 20
HEAD_BYTES = 64 << 10
LONE_CR: Final = "\ufdd0"  # a noncharacter, for use within a process
_CHUNK_BYTES = 1 << 20
_MARKS: Final = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNITS: Final = {"utf-16-le": "<u2", "utf-16-be": ">u2", "utf-32-le": "<u4", "utf-32-be": ">u4"}
_FAMILIES: Final = {"utf-8-sig": "utf-8", "utf-16": "utf-16", "utf-32": "utf-32"}
_NULS_OF_UTF16 = 0.2  # of the first bytes; a list of URLs is mostly ASCII


@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How the bytes of a list become lines of text.

    Attributes:
        encoding: As Python names it, with the byte order told.
        mark: The byte order mark at the file's start, or nothing.
        is_known: The encoding is named or marked, so that a line that is not in it is a bad row;
            where UTF-8 is only assumed, such a line means that the assumption is wrong.
        is_lenient: What cannot be decoded is replaced, as in plans of earlier versions.
    """

    encoding: str = "utf-8"
    mark: bytes = b""
    is_known: bool = False
    is_lenient: bool = False

    @property
    def unit(self) -> str:
        """The numpy type of the encoding's units."""
        return _UNITS.get(self.encoding, "u1")


def text_format(head: bytes, file: SourceFile, config: ReadingConfig, reader: int) -> TextFormat:
    """Tell the encoding of a list from its first bytes and from what the user says.

    Raises:
        SourceError: the encoding is unknown, or is not the one that the bytes show.
    """
    if reader == EARLIER_READER:
        mark = codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""
        return TextFormat(mark=mark, is_lenient=True)
    option = csv_option(config, "encoding")
    told = None if config.csv.encoding is None else _encoding_name(config.csv.encoding, option)
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            if told is not None and told not in (encoding, encoding[:6], encoding[:5]):
                raise SourceError(
                    f"{file.uri}: begins with the byte order mark of {encoding}, and {option} is "
                    f"{config.csv.encoding!r}; leave it out"
                )
            return TextFormat(encoding=encoding, mark=mark, is_known=True)
    if told in ("utf-16", "utf-32"):
        raise SourceError(
            f"{file.uri}: {option} is {told!r}, and no byte order mark tells the order of the "
            f"bytes; give {told}-le or {told}-be"
        )
    _refuse_other(head, told or "utf-8", file, option)
    return TextFormat() if told is None else TextFormat(encoding=told, is_known=True)


def csv_option(config: ReadingConfig, name: str) -> str:
    """What the user calls an option of `CsvConfig`: lists of prompts have another section."""
    return f"{'prompts' if config.url_column == '' else 'source'}.csv.{name}"


def _encoding_name(asked: str, option: str) -> str:
    try:
        name = codecs.lookup(asked).name
        name = _FAMILIES.get(name, name)
        splits = name in _UNITS or name in _FAMILIES.values() or "\r\n".encode(name) == b"\r\n"
    except (LookupError, UnicodeError, TypeError, ValueError):
        splits = False
    if not splits:
        raise SourceError(
            f"{option} is {asked!r}, which is no encoding of text lines; give one that Python "
            "knows, such as latin-1, cp1252, utf-16-le, shift_jis or gb18030"
        )
    return name


def _refuse_other(head: bytes, encoding: str, file: SourceFile, option: str) -> None:
    """Refuse an encoding, told or assumed, that the first bytes show to be another one."""
    nulls = [head[at::2].count(0) for at in (0, 1)]
    if encoding not in _UNITS:
        if sum(nulls) > _NULS_OF_UTF16 * len(head):
            raise SourceError(
                f"{file.uri}: {sum(nulls)} of its first {len(head)} bytes are NUL, as in UTF-16 "
                f"without a byte order mark; set {option} to utf-16-le or utf-16-be"
            )
        if _is_single_byte(encoding) and not head.isascii() and _is_utf8(head):
            raise SourceError(
                f"{file.uri}: {option} is {encoding!r}, and its first {len(head)} bytes are UTF-8, "
                "beyond ASCII; leave it out"
            )
    elif encoding.startswith("utf-16") and nulls["le" in encoding] <= nulls["be" in encoding]:
        raise SourceError(
            f"{file.uri}: {option} is {encoding!r}, and the NUL bytes among its first {len(head)} "
            "are not where that has them; leave it out, or name the list's encoding"
        )


def _is_single_byte(encoding: str) -> bool:
    return len(bytes(range(256)).decode(encoding, "replace")) == 256 and encoding != "utf-8"


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


class Lines:
    """The lines of a stream as text, with their line ends, counting lines and bytes.

    Args:
        stream: Positioned at a line's start, `at` bytes into the (decompressed) file.
        universal: A lone carriage return ends a line too; else it becomes `LONE_CR`, because the
            csv module refuses one in an unquoted field.

    Attributes:
        at: Bytes up to the end of the last line.
        number: Of the last line, from the stream's start.
        recent: Every line since the caller last emptied it.
        fault: Why a line since then is no text; None where all are.
    """

    def __init__(
        self,
        stream: IO[bytes],
        text: TextFormat,
        *,
        file: SourceFile,
        option: str,
        at: int = 0,
        universal: bool = False,
    ) -> None:
        self.at = self._taken_at = at
        self.number = 0
        self.has_lone_cr = False
        self.recent: list[str] = []
        self.fault: str | None = None
        self._text, self._uri, self._option, self._universal = text, file.uri, option, universal
        if universal or text.unit != "u1":
            self._lines = _split(stream, text.unit, universal=universal)
        else:
            self._lines = iter(partial(stream.readline, MAX_RECORD_BYTES), b"")

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        start, self.at = self.at, self.at + len(line)
        self.number += 1
        if len(line) >= MAX_RECORD_BYTES:
            raise SourceError(
                f"{self._uri}: the line at byte {start} is longer than {MAX_RECORD_BYTES} bytes; "
                "is this a list of URLs?"
            )
        if self.at - self._taken_at > MAX_RECORD_BYTES:
            raise SourceError(
                f"{self._uri}: the record at byte {self._taken_at} is longer than "
                f"{MAX_RECORD_BYTES} bytes; is a quote not closed?"
            )
        text = self._decode(line[len(self._text.mark) :] if start == 0 else line)
        if not self._universal and ("\r" in text[:-2] or text.endswith("\r")):
            self.has_lone_cr = True
            text = "\r\n".join(part.replace("\r", LONE_CR) for part in text.split("\r\n"))
        self.recent.append(text)
        return text

    def take(self) -> tuple[list[str], str | None]:
        """The lines since the last call, and why one of them is no text."""
        taken = self.recent, self.fault
        self.recent, self.fault, self._taken_at = [], None, self.at
        return taken

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode(self._text.encoding)
        except UnicodeDecodeError as error:
            if self._text.is_lenient:
                return line.decode(self._text.encoding, "replace")
            found = line[error.start : error.start + 4].hex(" ")
            fault = f"not {self._text.encoding}: bytes {found}"
            if not self._text.is_known:
                raise SourceError(
                    f"{self._uri}: line {self.number} (up to byte {self.at}) is {fault}; set "
                    f"{self._option} to the list's encoding (cp1252, latin-1, shift_jis, ...), or "
                    "to utf-8 to have such lines as rows that are row_unreadable"
                ) from None
            self.fault = fault
            return line.decode(self._text.encoding, "replace")


def _split(stream: IO[bytes], unit: str, *, universal: bool) -> Iterator[bytes]:
    """Lines with their ends; one that is too long is cut, for the caller to refuse."""
    size = np.dtype(unit).itemsize
    rest = b""
    while chunk := stream.read(_CHUNK_BYTES):
        rest += chunk
        start = 0
        for end in _line_ends(rest, unit, size, universal=universal):
            yield rest[start:end]
            start = end
        rest = rest[start:]
        if len(rest) >= MAX_RECORD_BYTES:
            yield rest
            rest = b""
    if rest:
        yield rest


def _line_ends(content: bytes, unit: str, size: int, *, universal: bool) -> list[int]:
    """Where lines end, in bytes; a carriage return that comes last may have a line feed yet."""
    units: npt.NDArray[np.unsignedinteger] = np.frombuffer(content, unit, len(content) // size)
    is_end = units == ord("\n")
    if universal:
        alone = (units[:-1] == ord("\r")) & ~is_end[1:]
        is_end[:-1] |= alone
    return [int(at) for at in (np.flatnonzero(is_end) + 1) * size]
