"""URL lists in Parquet: a shard reads the row groups it lies in, only as far as it needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import (
    TextColumns,
    as_text,
    recognise_columns,
    stored_type,
    unique_names,
)
from pipelines.sources.config import SourceConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows

_READ_BUFFER_BYTES = 1 << 20


def scan_parquet(
    file: SourceFile, config: SourceConfig, rows_per_shard: int
) -> Iterator[ScannedRange]:
    """The file's URLs and captions in ranges of `rows_per_shard`."""
    with open_parquet(file) as parquet:
        names = unique_names(parquet.schema_arrow.names)
        columns = recognise_columns(
            names,
            url_column=config.url_column,
            caption_column=config.caption_column,
            where=file.uri,
        )
        types = other_types(parquet, columns, file)
        start_row = 0
        for table in _tables(parquet, rows_per_shard, start_row=0, only=columns):
            yield ScannedRange(
                start_row=start_row,
                raw=_to_raw(table, columns),
                types=types,
                text_columns=columns,
            )
            start_row += table.num_rows


def read_parquet(file: SourceFile, where: SourceRange, columns: TextColumns) -> RawRows:
    """The rows of one range, with every column."""
    with open_parquet(file) as parquet:
        tables = _tables(parquet, where.num_rows, start_row=where.start_row, only=None)
        return _to_raw(next(tables), columns)


@contextmanager
def open_parquet(file: SourceFile) -> Iterator[pq.ParquetFile]:
    """The file's Parquet reader; every fault of it names the file."""
    with file.open() as stream:
        try:
            with pq.ParquetFile(
                stream,
                buffer_size=_READ_BUFFER_BYTES,
                pre_buffer=False,  # would keep every row group it has read
                page_checksum_verification=True,
            ) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{file.uri}: cannot be read as Parquet: {error}; the file is damaged or is none"
            ) from error


def other_types(parquet: pq.ParquetFile, columns: TextColumns, file: SourceFile) -> dict[str, str]:
    """Stored type of every column but the URL and the caption, which must be text.

    Raises:
        SourceError: the URL or the caption column holds something else.
    """
    schema = parquet.schema_arrow
    named = dict(zip(unique_names(schema.names), schema.types, strict=True))
    for option, name in (("url_column", columns.url), ("caption_column", columns.caption)):
        if name is not None and (
            stored_type(named[name]) != "string" or pa.types.is_nested(named[name])
        ):
            raise SourceError(
                f"{file.uri}: source.{option} {name!r} is {named[name]}, not text; "
                f"the columns are: {', '.join(named)}"
            )
    return {
        name: "" if pa.types.is_null(kind) else stored_type(kind)
        for name, kind in named.items()
        if name not in (columns.url, columns.caption)
    }


def _tables(
    parquet: pq.ParquetFile, num_rows: int, *, start_row: int, only: TextColumns | None
) -> Iterator[pa.Table]:
    """Consecutive tables of `num_rows` rows from `start_row` on; the last may be shorter."""
    group, skip = _find_group(parquet, start_row)
    groups = list(range(group, parquet.num_row_groups))
    names = unique_names(parquet.schema_arrow.names)
    wanted = None if only is None else [name for name in (only.url, only.caption) if name]
    duplicated = len(set(parquet.schema_arrow.names)) < len(names)
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in parquet.iter_batches(
        batch_size=min(num_rows, 65_536),
        row_groups=groups,
        columns=None if duplicated else wanted,
    ):
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        batch, skip = batch.slice(skip), 0
        if only is None or duplicated:
            batch = batch.rename_columns(names)
        pending.append(batch)
        held += batch.num_rows
        while held >= num_rows:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, num_rows)
            rest = table.slice(num_rows)
            pending, held = rest.to_batches(), rest.num_rows
    if held:
        yield pa.Table.from_batches(pending)


def _find_group(parquet: pq.ParquetFile, start_row: int) -> tuple[int, int]:
    """The row group that holds `start_row`, and how many of its rows come before it."""
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if start_row < rows:
            return group, start_row
        start_row -= rows
    return parquet.num_row_groups, 0


def _to_raw(table: pa.Table, columns: TextColumns) -> RawRows:
    table = table.combine_chunks()
    extra = {
        name: _one_array(table.column(name))
        for name in table.column_names
        if name not in (columns.url, columns.caption)
    }
    return raw_rows(
        url=_text(table, columns.url), caption=_text(table, columns.caption), extra=extra
    )


def _text(table: pa.Table, name: str | None) -> pa.Array:
    if name is None:
        return pa.nulls(table.num_rows, pa.string())
    return as_text(_one_array(table.column(name)))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else combined.chunk(0)
