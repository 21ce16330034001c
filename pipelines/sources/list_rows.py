"""From parsed records of a text list to rows, with a reason where one cannot be read."""

from collections.abc import Collection

import pyarrow as pa

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
    url, caption = _take_texts(by_name, columns, len(rows))
    return raw_rows(
        url=url,
        caption=caption,
        reason=[_BROKEN if fault else None for fault in broken],
        error_message=broken,
        extra=by_name,
        too_large=too_large_messages(records, columns),
    )


def json_rows(records: list[Record], columns: TextColumns, file: SourceFile) -> RawRows:
    """Lines of JSON; whatever is no object is unreadable.

    Raises:
        SourceError: they have too many names among them.
    """
    rows = [record.fields if isinstance(record.fields, dict) else None for record in records]
    broken = [
        record.fault or _json_fault(row, columns) for record, row in zip(records, rows, strict=True)
    ]
    good: list[dict[str, object]] = [
        {} if fault or row is None else row for row, fault in zip(rows, broken, strict=True)
    ]
    names = {name: None for row in good for name in row}
    refuse_columns(names, file)
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


def _json_fault(row: dict[str, object] | None, columns: TextColumns) -> str | None:
    if row is None:
        return "not a JSON object"
    if len(row) > MAX_COLUMNS:
        return f"more than {MAX_COLUMNS} names"
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


def types_of(raw: RawRows, file: SourceFile) -> dict[str, str]:
    """Stored type of each of the other columns, "" where nothing tells."""
    if file.format == "csv":
        return {name: infer_text_type(array) for name, array in raw.extra.items()}
    return {
        name: "" if array.null_count == len(array) else stored_type(array.type)
        for name, array in raw.extra.items()
    }
