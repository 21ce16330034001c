"""Records of CSV and TSV: the csv module finds them, and none may swallow a row unseen."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pipelines.sources.columns import json_text
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import EARLIER_READER
from pipelines.sources.text_lines import LONE_CR, MAX_RECORD_BYTES, Lines, csv_option

MOST_LONGER: Final = 4
"""A cell in UTF-8, as we write JSON, over its bytes in a list."""
_ABSOLUTE_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.\-]*://")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One parsed row and where it ends in the (decompressed) file.

    Attributes:
        fields: None where the row cannot be read, for the reason that `fault` gives.
        too_large: Columns whose cells are larger than allowed, and None among the fields.
    """

    fields: Sequence[str | None] | dict[str, object] | None
    end_byte: int
    fault: str | None = None
    too_large: tuple[str, ...] = ()

    def limited(self, names: list[str], max_bytes: int) -> "Record":
        """The record without its cells that have more bytes; names are those of a CSV's columns."""
        fields = self.fields
        if fields is None:
            return self
        cells = fields.items() if isinstance(fields, dict) else zip(names, fields, strict=False)
        over = tuple(name for name, value in cells if _num_bytes(value, max_bytes) > max_bytes)
        if not over:
            return self
        if isinstance(fields, dict):
            return replace(self, fields={**fields, **dict.fromkeys(over)}, too_large=over)
        kept = [None if name in over else value for name, value in zip(names, fields, strict=False)]
        return replace(self, fields=[*kept, *fields[len(names) :]], too_large=over)


def _num_bytes(value: object, max_bytes: int) -> int:
    text = value if isinstance(value, str) else json_text(value) or ""
    return len(text) if len(text) * 4 <= max_bytes else len(text.encode("utf-8", "replace"))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV list is written.

    Attributes:
        is_strict: Quotes in the wrong place are faults; else what the csv module makes of them.
        is_told: The user says how it is quoted, so that nothing is guessed about it.
    """

    delimiter: str
    has_quotes: bool
    escape: str | None = None
    is_strict: bool = True
    is_told: bool = False

    @classmethod
    def of(cls, file: SourceFile, config: ReadingConfig, reader: int) -> "Dialect":
        """By the configuration, else by the file's name."""
        if reader == EARLIER_READER:
            return cls(delimiter=file.delimiter, has_quotes=True, is_strict=False, is_told=True)
        told = config.csv.quoting
        return cls(
            delimiter=config.csv.delimiter or file.delimiter,
            has_quotes=file.delimiter != "\t" if told is None else told == "minimal",
            escape=config.csv.escape,
            is_told=told is not None,
        )

    def reader(self, lines: Iterator[str]) -> Any:
        """The csv module's reader of these lines."""
        allow_long_fields()
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.has_quotes else csv.QUOTE_NONE,
            escapechar=self.escape,
            strict=self.is_strict,
        )


def csv_header(lines: Lines, dialect: Dialect, file: SourceFile) -> list[str]:
    """The column names of a CSV list, as they stand there.

    Raises:
        SourceError: there are none, or they cannot be read.
    """
    try:
        names: list[str] = next(dialect.reader(lines), [])
    except csv.Error as error:
        raise SourceError(f"{file.uri}: the header cannot be read as CSV: {error}") from error
    _, fault = lines.take()
    if fault is not None:
        raise SourceError(f"{file.uri}: the header is {fault}")
    if not any(names):
        raise SourceError(f"{file.uri}: empty; a CSV list starts with its column names")
    return [name.replace(LONE_CR, "\r") for name in names]


def csv_records(
    lines: Lines,
    dialect: Dialect,
    file: SourceFile,
    config: ReadingConfig,
    *,
    width: int = 0,
    url_at: int | None = None,
) -> Iterator[Record]:
    """Every record from the lines' position on; blank lines are none.

    Args:
        width: Fields of a row.
        url_at: Which field the URL is: a record that takes in a line that looks like a row is
            refused. None: every record is taken at its word, as one that was planned.

    Raises:
        SourceError: a quote is not closed, or a record is longer than any may be.
    """
    reader = dialect.reader(lines)
    while True:
        first, start = lines.number + 1, lines.at
        where = f"{file.uri}: the record at byte {start} (line {first})"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _, fault = lines.take()
            if dialect.is_strict and lines.number == first and "unexpected end" not in str(error):
                fault = fault or "a quote in the wrong place"
                yield Record(fields=None, end_byte=lines.at, fault=fault)
                reader = dialect.reader(lines)
                continue
            raise SourceError(
                f"{where} cannot be read as CSV up to line {lines.number}: {error}; "
                f"{_quote_advice(config)}"
            ) from error
        taken, fault = lines.take()
        if url_at is not None and len(taken) > 1 and not dialect.is_told:
            _refuse_swallowed(taken[1:], dialect, width, url_at, where, config)
        if fields and lines.has_lone_cr:
            fields = [field.replace(LONE_CR, "\r") for field in fields]
        if fields:
            yield Record(fields=None if fault else fields, end_byte=lines.at, fault=fault)


def _refuse_swallowed(
    inner: list[str], dialect: Dialect, width: int, url_at: int, where: str, config: ReadingConfig
) -> None:
    for offset, line in enumerate(inner, start=1):
        fields = line.rstrip("\r\n").split(dialect.delimiter)
        if len(fields) == width and _ABSOLUTE_URL.match(fields[url_at]):
            raise SourceError(
                f"{where} holds a quoted field that goes on over {len(inner)} more line(s), and "
                f"line {offset} of them looks like a row of its own: a quote that is not closed? "
                f"{_quote_advice(config)}, or to minimal where the list is right"
            )


def _quote_advice(config: ReadingConfig) -> str:
    return (
        "a quote is not closed, or is none: mend that line; where a backslash comes before quotes "
        f"set {csv_option(config, 'escape')} to it; where quotes are plain characters set "
        f"{csv_option(config, 'quoting')} to none"
    )


def allow_long_fields() -> None:
    """The csv module's own limit of 128 KiB a field is less than a caption may be."""
    if csv.field_size_limit() < MAX_RECORD_BYTES:
        csv.field_size_limit(MAX_RECORD_BYTES)
