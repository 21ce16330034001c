"""URL lists that are text: one URL a line, JSON lines, and CSV with quoted line breaks.

A shard is a range of bytes, found while planning, so that it is read without the file's start.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.cells import PIECE_BYTES, ShardCut, lost_cells
from pipelines.sources.columns import TextColumns, recognise_columns, unique_names
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.csv_records import MOST_LONGER, Dialect, Record, csv_header, csv_records
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import csv_rows, json_rows, types_of, unchosen
from pipelines.sources.rows import EARLIER_READER, READER, RawRows, ScannedRange, SourceRange
from pipelines.sources.text_lines import (
    HEAD_BYTES,
    LONE_CR,
    Lines,
    TextFormat,
    csv_option,
    text_format,
)
from sd_core.plain_json import parse_json

_TEXT_COLUMNS = TextColumns(url="url", caption=None)
_OTHER_KINDS = {"{": "jsonl", "http://": "text", "https://": "text", "[": "jsonl"}
_OTHER_DELIMITERS = ("\t", ";", "|", ",")


def scan_list(
    file: SourceFile, config: ReadingConfig, rows_per_shard: int, *, reader: int = READER
) -> Iterator[ScannedRange]:
    """The file's rows in ranges of `rows_per_shard`, each with its bytes."""
    written = _Written.read(file, config, reader)
    with file.open_at(0) as stream:
        lines = written.lines(stream, at=0)
        if file.format == "csv":
            csv_header(lines, written.dialect, file)
        columns = written.columns()
        start_row, start_byte = 0, lines.at
        cut = ShardCut(rows_per_shard)
        records = written.records(lines, columns, max_cell_bytes=config.max_cell_bytes)
        for batch in _pieces(records, start_byte, rows_per_shard):
            if columns is None:
                columns = _json_columns(batch, config, file)
            raw = _to_raw(batch, written, columns)
            end_byte = batch[-1].end_byte
            yield ScannedRange(
                start_row=start_row,
                raw=raw,
                types=types_of(raw, file),
                text_columns=columns,
                start_byte=start_byte,
                end_byte=end_byte,
                notes=_notes(batch, written) + _lost(batch, columns, config) + unchosen(raw),
                begins_shard=cut.begins(start_row, end_byte - start_byte),
                too_large=[row for row, record in enumerate(batch) if record.too_large],
            )
            start_row, start_byte = start_row + len(batch), end_byte


def _pieces(
    records: Iterator[Record], start_byte: int, rows_per_shard: int
) -> Iterator[list[Record]]:
    """Consecutive records, up to the next multiple of `rows_per_shard` or before they are much."""
    held: list[Record] = []
    for number, record in enumerate(records, start=1):
        held.append(record)
        if number % rows_per_shard == 0 or record.end_byte - start_byte >= PIECE_BYTES:
            yield held
            held, start_byte = [], record.end_byte
    if held:
        yield held


def _lost(batch: list[Record], columns: TextColumns, config: ReadingConfig) -> Counter[str]:
    counts = Counter(name for record in batch for name in record.too_large)
    for name in (columns.url, columns.caption):
        counts.pop(name or "", None)
    return lost_cells(config.max_cell_bytes, counts)


def read_list(
    file: SourceFile, where: SourceRange, columns: TextColumns, config: ReadingConfig
) -> RawRows:
    """The rows of one range."""
    written = _Written.read(file, config, where.reader)
    with file.open_at(where.start_byte or 0) as stream:
        lines = written.lines(stream, at=where.start_byte or 0)
        found = written.records(
            lines, columns, is_planned=True, max_cell_bytes=where.max_cell_bytes
        )
        records = list(itertools.islice(found, where.num_rows))
    if len(records) != where.num_rows or records[-1].end_byte != where.end_byte:
        raise SourceError(
            f"{file.uri}: rows {where.start_row} to {where.start_row + where.num_rows - 1} are not "
            "where the plan found them; the file has changed: plan a new run"
        )
    return _to_raw(records, written, columns)


@dataclass(frozen=True, kw_only=True)
class _Written:
    """How a list is written: what its first bytes, its name and the user say of it.

    Attributes:
        names: The columns of CSV; one of text.
        universal: A lone carriage return ends a line.
    """

    file: SourceFile
    config: ReadingConfig
    text: TextFormat
    dialect: Dialect
    universal: bool
    names: list[str]

    @classmethod
    def read(cls, file: SourceFile, config: ReadingConfig, reader: int) -> "_Written":
        """From the file's start."""
        with file.open_at(0) as stream:
            head = stream.read(HEAD_BYTES)
        text = text_format(head, file, config, reader)
        dialect = Dialect.of(file, config, reader)
        universal = reader != EARLIER_READER
        if universal and file.format == "csv":
            universal = _has_cr_ends(head, text, dialect)
        written = cls(
            file=file, config=config, text=text, dialect=dialect, universal=universal, names=["url"]
        )
        if file.format != "csv":
            return written
        with file.open_at(0) as stream:
            names = csv_header(written.lines(stream, at=0), dialect, file)
        written.names[:] = unique_names(names)
        return written

    def lines(self, stream: IO[bytes], *, at: int) -> Lines:
        """The lines of a stream that stands at that byte."""
        return Lines(
            stream,
            self.text,
            file=self.file,
            option=csv_option(self.config, "encoding"),
            at=at,
            universal=self.universal,
        )

    def records(
        self,
        lines: Lines,
        columns: TextColumns | None,
        *,
        is_planned: bool = False,
        max_cell_bytes: int | None,
    ) -> Iterator[Record]:
        """Every row from the lines' position on, without cells that are too large; blank lines are
        no rows."""
        at = lines.at
        for record in self._records(lines, columns, is_planned=is_planned):
            num_bytes, at = record.end_byte - at, record.end_byte
            if max_cell_bytes is not None and num_bytes * MOST_LONGER > max_cell_bytes:
                record = record.limited(self.names, max_cell_bytes)
            yield record

    def _records(
        self, lines: Lines, columns: TextColumns | None, *, is_planned: bool
    ) -> Iterator[Record]:
        if self.file.format == "csv":
            url = None if columns is None or is_planned else columns.url
            yield from csv_records(
                lines,
                self.dialect,
                self.file,
                self.config,
                width=len(self.names),
                url_at=None if url is None else self.names.index(url),
            )
            return
        for line in lines:
            text = line.replace(LONE_CR, "\r").strip() if lines.has_lone_cr else line.strip()
            _, fault = lines.take()
            if text or fault:
                fields = _parse_json(text) if self.file.format == "jsonl" else [text]
                yield Record(fields=None if fault else fields, end_byte=lines.at, fault=fault)

    def columns(self) -> TextColumns | None:
        """The URL and caption columns where the header tells; None for JSON lines."""
        if self.file.format == "text":
            is_prompts = self.config.url_column == ""
            return TextColumns(url=None, caption="url") if is_prompts else _TEXT_COLUMNS
        if self.file.format != "csv":
            return None
        try:
            return recognise_columns(
                self.names,
                url_column=self.config.url_column,
                caption_column=self.config.caption_column,
                where=self.file.uri,
            )
        except SourceError as error:
            error.args = (f"{error}{self._advice()}",)
            raise

    def _advice(self) -> str:
        """What else may be wrong with a header in which a column is not found."""
        if not self.dialect.has_quotes and any(re.fullmatch('".*"', name) for name in self.names):
            option = csv_option(self.config, "quoting")
            return f"; are the quotes no part of the names? Set {option} to minimal"
        for start, kind in _OTHER_KINDS.items():
            if self.names[0].startswith(start):
                section = csv_option(self.config, "").partition(".")[0]
                return f"; set {section}.format to {kind} where it is that"
        for sign in _OTHER_DELIMITERS:
            if len(self.names) == 1 and sign in self.names[0]:
                option = csv_option(self.config, "delimiter")
                return f"; are the columns parted by {sign!r}? Set {option} to it"
        return ""


def _has_cr_ends(head: bytes, text: TextFormat, dialect: Dialect) -> bool:
    """Whether the first line that ends outside quotes ends with a carriage return alone."""
    in_quotes = False
    start = head[len(text.mark) :].decode(text.encoding, "replace")
    for at, sign in enumerate(start):
        if sign == '"' and dialect.has_quotes:
            in_quotes = not in_quotes
        elif sign in "\r\n" and not in_quotes:
            return sign == "\r" and start[at + 1 : at + 2] != "\n"
    return False


def _notes(batch: list[Record], written: _Written) -> Counter[str]:
    """What may be wrong with a list whose quotes are taken for plain characters."""
    notes: Counter[str] = Counter()
    dialect = written.dialect
    if written.file.format != "csv" or dialect.has_quotes:
        return notes
    rows = [record.fields for record in batch if isinstance(record.fields, list)]
    fields = pa.array([field for row in rows for field in row], pa.string())
    quoted = pc.sum(pc.match_substring_regex(fields, r'(?s)^".*"$')).as_py()
    if quoted:
        option = csv_option(written.config, "quoting")
        notes[
            "fields of the list stand in quotes, which are read as plain characters; "
            f"set {option} to minimal if they are not"
        ] = quoted
    return notes


def _parse_json(text: str) -> dict[str, object] | None:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_columns(batch: list[Record], config: ReadingConfig, file: SourceFile) -> TextColumns:
    rows = [record.fields for record in batch if isinstance(record.fields, dict)]
    if not rows:
        section = "prompts" if config.url_column == "" else "source"
        raise SourceError(
            f"{file.uri}: none of its first lines is a JSON object; set "
            f"{section}.format to csv or text where it is that, and write a JSON array with an "
            "object a line"
        )
    names = {name: None for row in rows for name in row}
    return recognise_columns(
        list(names),
        url_column=config.url_column,
        caption_column=config.caption_column,
        where=file.uri,
    )


def _to_raw(records: list[Record], written: _Written, columns: TextColumns) -> RawRows:
    if written.file.format == "jsonl":
        return json_rows(records, columns, written.file, choice=written.config.captions)
    return csv_rows(records, written.names, columns)
