"""From parsed records of a text list to rows, with a reason where one cannot be read."""

from collections import Counter
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.caption_lists import CaptionChoice, is_listed, listed_captions
from pipelines.sources.cells import too_large_message
from pipelines.sources.columns import (
    TextColumns,
    array_from_values,
    clean_text,
    infer_text_type,
    stored_type,
)
from pipelines.sources.config import MAX_COLUMNS, SourceError
from pipelines.sources.csv_records import Record
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import RawRows, raw_rows

_BROKEN = "row_unreadable"
_UNCHOSEN = "is a list of texts; set source.captions to first, longest or random"


def csv_rows(records: list[Record], names: list[str], columns: TextColumns) -> RawRows:
    """Records of CSV, or lines of text, which have one column; another width is unreadable."""
    width = len(names)
    fields = [record.fields or () for record in records]
    broken = [
        record.fault or (f"{len(row)} fields, not {width}" if len(row) != width else None)
        for record, row in zip(records, fields, strict=True)
    ]
    blank = [None] * width
    rows = [blank if fault else row for row, fault in zip(fields, broken, strict=True)]
    by_name = {
        name: pa.array(values, pa.string())
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }
    return _rows_of(by_name, records, broken, columns)


def json_rows(
    records: list[Record], columns: TextColumns, file: SourceFile, *, choice: CaptionChoice | None
) -> RawRows:
    """Lines of JSON; whatever is no object is unreadable.

    Args:
        choice: Which of the captions that are lists of texts; None: they are unreadable.

    Raises:
        SourceError: they have too many names among them.
    """
    rows = [record.fields if isinstance(record.fields, dict) else None for record in records]
    broken = [
        record.fault or _json_fault(row, columns, takes_lists=choice is not None)
        for record, row in zip(records, rows, strict=True)
    ]
    good: list[dict[str, object]] = [
        {} if fault or row is None else row for row, fault in zip(rows, broken, strict=True)
    ]
    names = {name: None for row in good for name in row}
    refuse_columns(names, file)
    text_names = {columns.url, columns.caption}
    by_name = {
        name: pa.array([_text(value) for value in values], pa.string())
        if name in text_names
        else array_from_values(values)
        for name in names
        for values in [[row.get(name) for row in good]]
    }
    lists = listed_captions([row.get(columns.caption or "") for row in good], choice)
    return _rows_of(by_name, records, broken, columns, lists)


def _rows_of(
    by_name: dict[str, pa.Array],
    records: list[Record],
    broken: list[str | None],
    columns: TextColumns,
    lists: pa.Array | None = None,
) -> RawRows:
    """Rows of the columns' values; `lists` are the captions where some are lists of texts."""
    missing = pa.nulls(len(records), pa.string())
    url = by_name.pop(columns.url or "", missing)
    caption = by_name.pop(columns.caption, missing) if columns.caption else missing
    if lists is not None and columns.caption is not None:
        by_name[columns.caption] = lists
    return raw_rows(
        url=url,
        caption=caption,
        captions=lists,
        reason=[_BROKEN if fault else None for fault in broken],
        error_message=broken,
        extra={clean_text(name) or "": array for name, array in by_name.items()},
        too_large=too_large_messages(records, columns),
    )


def too_large_messages(records: list[Record], columns: TextColumns) -> list[str | None] | None:
    """What is said of a row whose URL or caption is larger than allowed; None where none is."""
    texts = [name for name in (columns.url, columns.caption) if name]
    found = [next((n for n in texts if n in record.too_large), None) for record in records]
    return [name and too_large_message(name) for name in found] if any(found) else None


def refuse_columns(names: Collection[str], file: SourceFile) -> None:
    """Raise `SourceError` where rows have more names among them than any list has columns."""
    if len(names) > MAX_COLUMNS:
        raise SourceError(
            f"{file.uri}: its rows have {len(names):,} different names among them; at most "
            f"{MAX_COLUMNS:,} columns are read"
        )


def _json_fault(
    row: dict[str, object] | None, columns: TextColumns, *, takes_lists: bool
) -> str | None:
    if row is None:
        return "not a JSON object"
    if len(row) > MAX_COLUMNS:
        return f"more than {MAX_COLUMNS} names"
    for column in (columns.url, columns.caption):
        value = row.get(column or "")
        if isinstance(value, list | dict):
            is_captions = column == columns.caption and is_listed(value)
            if not is_captions:
                return f"{column} is not text"
            if not takes_lists:
                return f"{column} {_UNCHOSEN}"
    return None


def _text(value: object) -> str | None:
    return None if value is None or isinstance(value, list) else clean_text(str(value))


def unchosen(raw: RawRows) -> Counter[str]:
    """How many rows are unreadable because nothing says which of their captions is meant."""
    is_list = pc.sum(pc.match_substring(raw.error_message, _UNCHOSEN)).as_py() or 0
    return +Counter({f"the caption of rows {_UNCHOSEN}": is_list})


def types_of(raw: RawRows, file: SourceFile) -> dict[str, str]:
    """Stored type of each of the other columns, "" where nothing tells."""
    if file.format == "csv":
        return {name: infer_text_type(array) for name, array in raw.extra.items()}
    return {
        name: "" if array.null_count == len(array) else stored_type(array.type)
        for name, array in raw.extra.items()
    }
