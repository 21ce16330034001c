"""URL lists in Parquet: a shard reads the row groups it lies in, only as far as it needs."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.arrow_text import LostValues, has_pictures, holds_bytes
from pipelines.sources.columns import (
    TextColumns,
    as_text,
    carry,
    recognise_columns,
    stored_type,
    unique_names,
)
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows

_READ_BUFFER_BYTES = 1 << 20


def scan_parquet(
    file: SourceFile,
    config: ReadingConfig,
    rows_per_shard: int,
    *,
    without: Collection[str] = (),
) -> Iterator[ScannedRange]:
    """The file's URLs and captions in ranges of `rows_per_shard`.

    Every column whose values may not be carried is read along, to say what is lost of it.

    Args:
        without: Columns that are read otherwise.
    """
    with open_parquet(file) as parquet:
        names = unique_names(parquet.schema_arrow.names)
        columns = _text_columns(parquet, names, config, file)
        types = other_types(parquet, columns, file)
        pictures = {n for n in _picture_columns(parquet, file, types) if n not in without}
        types = {n: kind for n, kind in types.items() if n not in pictures and n not in without}
        wanted = [name for name in (columns.url, columns.caption) if name]
        doubtful = [name for name, kind in types.items() if kind == "string"]
        start_row = 0
        for table in _tables(parquet, rows_per_shard, start_row=0, only=[*wanted, *doubtful]):
            notes = Counter({_left_out(name): table.num_rows for name in pictures})
            yield ScannedRange(
                start_row=start_row,
                raw=_to_raw(table.select(wanted), columns, notes),
                types=types,
                text_columns=columns,
                notes=notes + _losses(table.select(doubtful)),
            )
            start_row += table.num_rows


def _left_out(name: str) -> str:
    return f"the column {name!r} holds bytes that are no text (pictures?) and is left out"


def _losses(table: pa.Table) -> Counter[str]:
    """How many values of each column cannot be carried."""
    found: Counter[str] = Counter()
    for name in table.column_names:
        losses = LostValues()
        carry(_one_array(table.column(name)), "string", losses)
        if losses.values:
            found[f"values of the column {name!r} cannot be carried and are null"] = losses.values
    return found


def _text_columns(
    parquet: pq.ParquetFile, names: list[str], config: ReadingConfig, file: SourceFile
) -> TextColumns:
    try:
        return recognise_columns(
            names,
            url_column=config.url_column,
            caption_column=config.caption_column,
            where=file.uri,
        )
    except SourceError as error:
        types = zip(names, parquet.schema_arrow.types, strict=True)
        bytes_in = [name for name, kind in types if holds_bytes(kind)]
        if not bytes_in or config.url_column == "":
            raise
        raise SourceError(
            f"{error}. {', '.join(bytes_in)} hold(s) bytes: pictures inside Parquet are no source "
            "yet; give a list of URLs, a WebDataset tar, or a folder that img2dataset wrote"
        ) from None


def _picture_columns(
    parquet: pq.ParquetFile, file: SourceFile, types: Collection[str]
) -> list[str]:
    """Columns whose first values, however deep, are bytes that are neither text nor short."""
    schema = parquet.schema_arrow
    kinds = dict(zip(unique_names(schema.names), schema.types, strict=True))
    return [name for name in types if holds_bytes(kinds[name]) and _is_of_pictures(parquet, name)]


def _is_of_pictures(parquet: pq.ParquetFile, name: str) -> bool:
    groups = list(range(parquet.num_row_groups))
    for batch in _batches(parquet, groups, 64, only=[name]):
        column = batch.column(name)
        if column.null_count < len(column):
            return has_pictures(column)
    return False


def read_parquet_rows(
    file: SourceFile,
    where: SourceRange,
    columns: TextColumns,
    *,
    others: Collection[str] | None = None,
) -> RawRows:
    """The rows of one range.

    Args:
        others: Which columns beside URL and caption; every one where None.
    """
    wanted = [name for name in (columns.url, columns.caption) if name]
    with open_parquet(file) as parquet:
        names = unique_names(parquet.schema_arrow.names)
        only = [n for n in names if others is None or n in others or n in wanted]
        tables = _tables(parquet, where.num_rows, start_row=where.start_row, only=only)
        return _to_raw(next(tables), columns)


def read_bytes_column(file: SourceFile, where: SourceRange, name: str) -> Iterator[bytes | None]:
    """The values of a binary column, one for each row of the range, a few at a time in memory."""
    with open_parquet(file) as parquet:
        group, skip = _find_group(parquet, where.start_row)
        groups = list(range(group, parquet.num_row_groups))
        values = (
            value.as_py()
            for batch in _batches(parquet, groups, 64, only=[name])
            for value in batch.column(name)
        )
        yield from itertools.islice(values, skip, skip + where.num_rows)


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
    parquet: pq.ParquetFile, num_rows: int, *, start_row: int, only: list[str]
) -> Iterator[pa.Table]:
    """Consecutive tables of `num_rows` rows from `start_row` on; the last may be shorter."""
    group, skip = _find_group(parquet, start_row)
    groups = list(range(group, parquet.num_row_groups))
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in _batches(parquet, groups, min(num_rows, 65_536), only=only):
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        batch, skip = batch.slice(skip), 0
        pending.append(batch)
        held += batch.num_rows
        while held >= num_rows:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, num_rows)
            rest = table.slice(num_rows)
            pending, held = rest.to_batches(), rest.num_rows
    if held:
        yield pa.Table.from_batches(pending)


def _batches(
    parquet: pq.ParquetFile, groups: list[int], num_rows: int, *, only: list[str]
) -> Iterator[pa.RecordBatch]:
    """Those columns, in that order; names that come twice are told apart."""
    names = unique_names(parquet.schema_arrow.names)
    is_doubled = len(set(parquet.schema_arrow.names)) < len(names)
    for batch in parquet.iter_batches(
        batch_size=num_rows, row_groups=groups, columns=None if is_doubled else only
    ):
        if is_doubled:
            batch = batch.rename_columns(names)
        yield batch.select(only)


def _find_group(parquet: pq.ParquetFile, start_row: int) -> tuple[int, int]:
    """The row group that holds `start_row`, and how many of its rows come before it."""
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if start_row < rows:
            return group, start_row
        start_row -= rows
    return parquet.num_row_groups, 0


def _to_raw(table: pa.Table, columns: TextColumns, notes: Counter[str] | None = None) -> RawRows:
    extra = {
        name: _one_array(table.column(name))
        for name in table.column_names
        if name not in (columns.url, columns.caption)
    }
    losses = LostValues()
    url, caption = (_text(table, name, losses) for name in (columns.url, columns.caption))
    if losses.values and notes is not None:
        notes["URLs and captions with bytes that are no UTF-8, replaced by U+FFFD"] = losses.values
    return raw_rows(url=url, caption=caption, extra=extra)


def _text(table: pa.Table, name: str | None, losses: LostValues) -> pa.Array:
    if name is None:
        return pa.nulls(table.num_rows, pa.string())
    return as_text(_one_array(table.column(name)), losses)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
