"""URL lists that are text: one URL a line, JSON lines, and CSV with quoted line breaks.

A shard is a range of bytes, found while planning, so that it is read without the file's start.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO

import pyarrow as pa

from pipelines.sources.columns import (
    TextColumns,
    array_from_values,
    clean_text,
    infer_text_type,
    recognise_columns,
    stored_type,
    unique_names,
)
from pipelines.sources.config import SourceConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows

MAX_RECORD_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"
_BROKEN = "row_unreadable"
_TEXT_COLUMNS = TextColumns(url="url", caption=None)
_LONE_CR = "\ufdd0"  # a noncharacter, for use within a process


@dataclass(frozen=True, kw_only=True)
class _Record:
    """One parsed row and where it ends in the (decompressed) file."""

    fields: list[str] | dict[str, object] | None
    end_byte: int


def scan_list(
    file: SourceFile, config: SourceConfig, rows_per_shard: int
) -> Iterator[ScannedRange]:
    """The file's rows in ranges of `rows_per_shard`, each with its bytes."""
    with file.open_at(0) as stream:
        header = _Header.read(stream, file)
        columns: TextColumns | None = header.columns(config, file)
        start_row, start_byte = 0, header.end_byte
        records = _records(stream, file, header)
        while batch := list(itertools.islice(records, rows_per_shard)):
            if columns is None:
                columns = _json_columns(batch, config, file)
            raw = _to_raw(batch, file, header, columns)
            end_byte = batch[-1].end_byte
            yield ScannedRange(
                start_row=start_row,
                raw=raw,
                types=_types(raw, file),
                text_columns=columns,
                start_byte=start_byte,
                end_byte=end_byte,
            )
            start_row, start_byte = start_row + len(batch), end_byte


def read_list(file: SourceFile, where: SourceRange, columns: TextColumns) -> RawRows:
    """The rows of one range."""
    header = _Header(names=None, end_byte=where.start_byte or 0)
    if file.format == "csv":
        with file.open_at(0) as stream:
            names = _Header.read(stream, file).names
        header = _Header(names=names, end_byte=where.start_byte or 0)
    with file.open_at(header.end_byte) as stream:
        records = list(itertools.islice(_records(stream, file, header), where.num_rows))
    if len(records) != where.num_rows or records[-1].end_byte != where.end_byte:
        raise SourceError(
            f"{file.uri}: rows {where.start_row} to {where.start_row + where.num_rows - 1} are not "
            "where the plan found them; the file has changed: plan a new run"
        )
    return _to_raw(records, file, header, columns)


@dataclass(frozen=True, kw_only=True)
class _Header:
    """A CSV file's column names, and where its first record starts."""

    names: list[str] | None
    end_byte: int

    @classmethod
    def read(cls, stream: IO[bytes], file: SourceFile) -> "_Header":
        lines = _Lines(stream, file, at=0)
        if file.format != "csv":
            return cls(names=None, end_byte=0)
        _allow_long_fields()
        try:
            names = next(csv.reader(lines, delimiter=file.delimiter), [])
        except csv.Error as error:
            raise SourceError(f"{file.uri}: the header cannot be read as CSV: {error}") from error
        if not names:
            raise SourceError(f"{file.uri}: empty; a CSV list starts with its column names")
        return cls(names=unique_names(names), end_byte=lines.at)

    def columns(self, config: SourceConfig, file: SourceFile) -> TextColumns | None:
        """The URL and caption columns where the header tells; None for JSON lines."""
        if file.format == "text":
            is_prompts = config.url_column == ""
            return TextColumns(url=None, caption="url") if is_prompts else _TEXT_COLUMNS
        if self.names is None:
            return None
        return recognise_columns(
            self.names,
            url_column=config.url_column,
            caption_column=config.caption_column,
            where=file.uri,
        )


class _Lines:
    """The lines of a stream as text, counting bytes; no line is longer than a record may be."""

    def __init__(self, stream: IO[bytes], file: SourceFile, *, at: int) -> None:
        self.at = at
        self.has_lone_cr = False
        self._uri = file.uri
        self._lines = iter(partial(stream.readline, MAX_RECORD_BYTES), b"")

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        start, self.at = self.at, self.at + len(line)
        if len(line) >= MAX_RECORD_BYTES:
            raise SourceError(
                f"{self._uri}: the line at byte {start} is longer than {MAX_RECORD_BYTES} bytes; "
                "is this a list of URLs?"
            )
        if start == 0 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        text = line.decode("utf-8", "replace")
        if "\r" in text[:-2] or text.endswith("\r"):
            # The csv module refuses a carriage return in an unquoted field.
            self.has_lone_cr = True
            text = re.sub(r"\r(?!\n)", _LONE_CR, text)
        return text


def _records(stream: IO[bytes], file: SourceFile, header: _Header) -> Iterator[_Record]:
    """Every row from the stream's position on; blank lines are no rows."""
    lines = _Lines(stream, file, at=header.end_byte)
    if file.format == "csv":
        yield from _csv_records(lines, file)
        return
    parse = _parse_json if file.format == "jsonl" else _parse_url
    for line in lines:
        text = line.replace(_LONE_CR, "\r").strip() if lines.has_lone_cr else line.strip()
        if text:
            yield _Record(fields=parse(text), end_byte=lines.at)


def _csv_records(lines: _Lines, file: SourceFile) -> Iterator[_Record]:
    """The csv module finds the records itself, so a range ends where it says one does."""
    _allow_long_fields()
    reader = csv.reader(lines, delimiter=file.delimiter)
    start = lines.at
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(
                f"{file.uri}: the record at byte {start} cannot be read as CSV: {error}; "
                "is a quote not closed?"
            ) from error
        if fields and lines.has_lone_cr:
            fields = [field.replace(_LONE_CR, "\r") for field in fields]
        if fields:
            yield _Record(fields=fields, end_byte=lines.at)
        start = lines.at


def _parse_json(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse_url(text: str) -> list[str]:
    return [text]


def _json_columns(batch: list[_Record], config: SourceConfig, file: SourceFile) -> TextColumns:
    names = {name: None for record in batch for name in record.fields or ()}
    return recognise_columns(
        list(names),
        url_column=config.url_column,
        caption_column=config.caption_column,
        where=file.uri,
    )


def _to_raw(
    records: list[_Record], file: SourceFile, header: _Header, columns: TextColumns
) -> RawRows:
    fields = [record.fields for record in records]
    if file.format == "jsonl":
        return _json_rows(fields, columns)  # type: ignore[arg-type]
    names = header.names or ["url"]
    width = len(names)
    broken = [
        f"{len(row or ())} fields, not {width}" if len(row or ()) != width else None
        for row in fields
    ]
    blank = [None] * width
    rows = [blank if fault else row for row, fault in zip(fields, broken, strict=True)]
    by_name = {
        name: pa.array(values, pa.string())
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    url, caption = _take_texts(by_name, columns, len(rows))
    return raw_rows(
        url=url,
        caption=caption,
        reason=[_BROKEN if fault else None for fault in broken],
        error_message=broken,
        extra=by_name,
    )


def _json_rows(rows: list[dict[str, object] | None], columns: TextColumns) -> RawRows:
    broken = [_json_fault(row, columns) for row in rows]
    good: list[dict[str, object]] = [
        {} if fault or row is None else row for row, fault in zip(rows, broken, strict=True)
    ]
    names = {name: None for row in good for name in row}
    text_names = {columns.url, columns.caption}
    by_name = {
        name: pa.array(
            [clean_text(value if value is None else str(value)) for value in values], pa.string()
        )
        if name in text_names
        else array_from_values(values)
        for name in names
        for values in [[row.get(name) for row in good]]
    }
    url, caption = _take_texts(by_name, columns, len(rows))
    extra = {clean_text(name) or "": array for name, array in by_name.items()}
    return raw_rows(
        url=url,
        caption=caption,
        reason=[_BROKEN if fault else None for fault in broken],
        error_message=broken,
        extra=extra,
    )


def _json_fault(row: dict[str, object] | None, columns: TextColumns) -> str | None:
    if row is None:
        return "not a JSON object"
    for column in (columns.url, columns.caption):
        if column is not None and isinstance(row.get(column), list | dict):
            return f"{column} is not text"
    return None


def _take_texts(
    by_name: dict[str, pa.Array], columns: TextColumns, num_rows: int
) -> tuple[pa.Array, pa.Array]:
    missing = pa.nulls(num_rows, pa.string())
    url = by_name.pop(columns.url or "", missing)
    return url, by_name.pop(columns.caption, missing) if columns.caption else missing


def _types(raw: RawRows, file: SourceFile) -> dict[str, str]:
    if file.format == "csv":
        return {name: infer_text_type(array) for name, array in raw.extra.items()}
    return {
        name: "" if array.null_count == len(array) else stored_type(array.type)
        for name, array in raw.extra.items()
    }


def _allow_long_fields() -> None:
    """The csv module's own limit of 128 KiB a field is less than a caption may be."""
    if csv.field_size_limit() < MAX_RECORD_BYTES:
        csv.field_size_limit(MAX_RECORD_BYTES)
