"""URL lists in Parquet: a shard reads the row groups it lies in, only as far as it needs."""

import itertools
from collections import Counter
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.arrow_text import LostValues, has_pictures, holds_bytes, plain
from pipelines.sources.caption_lists import caption_lists, is_list_of_texts
from pipelines.sources.cells import CellLimit, ShardCut, lost_cells
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
from pipelines.sources.parquet_reading import (
    BoundedReading,
    find_group,
    open_parquet,
    record_batches,
)
from pipelines.sources.row_pieces import RowPiece
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows

_FIRST_ROWS = 64
_BYTES_AT_ONCE = 16


def scan_parquet(
    file: SourceFile,
    config: ReadingConfig,
    rows_per_shard: int,
    *,
    without: Collection[str] = (),
    texts: TextColumns | None = None,
) -> Iterator[ScannedRange]:
    """The file's URLs and captions in ranges of `rows_per_shard`.

    Every column whose values may not be carried is read along, to say what is lost of it.

    Args:
        without: Columns that are read otherwise.
        texts: The URL and caption columns; recognised by default.
    """
    with open_parquet(file) as parquet:
        names = unique_names(parquet.schema_arrow.names)
        columns = texts or _text_columns(parquet, names, config, file)
        types = other_types(parquet.schema_arrow, columns, config, file)
    types = {name: kind for name, kind in types.items() if name not in without}
    pictures = picture_columns(file, types)
    types = {name: kind for name, kind in types.items() if name not in pictures}
    wanted = [name for name in (columns.url, columns.caption) if name]
    doubtful = [n for n, kind in types.items() if kind == "string" and n not in wanted]
    cut, start_row = ShardCut(rows_per_shard), 0
    only = [*wanted, *doubtful] or list(types)[:1]  # of something its rows are counted
    pieces = BoundedReading(file, only=only, max_bytes=config.max_cell_bytes)
    for piece in pieces.pieces(rows_per_shard):
        table, limit = piece.table, piece.limit
        left_out = "holds bytes that are no text (pictures?) and is left out"
        notes = Counter({f"the column {name!r} {left_out}": table.num_rows for name in pictures})
        yield ScannedRange(
            start_row=start_row,
            raw=table_rows(table.select(wanted), columns, limit, notes=notes),
            types=types,
            text_columns=columns,
            notes=notes + _losses(table.select(doubtful)) + lost_in(piece, columns),
            begins_shard=cut.begins(start_row, piece.num_bytes),
            too_large=limit.places,
        )
        start_row += table.num_rows


def lost_in(piece: RowPiece, columns: TextColumns) -> Counter[str]:
    """Notes on the cells of other columns that are null for their size."""
    over = piece.limit.rows.items()
    lost = {n: int(rows.sum()) for n, rows in over if n not in (columns.url, columns.caption)}
    return lost_cells(piece.limit.max_bytes, Counter(lost))


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
            f"{error}. {', '.join(bytes_in)} hold(s) bytes: where they are the pictures, set "
            "source.format to parquet_images"
        ) from None


def picture_columns(file: SourceFile, types: Collection[str]) -> list[str]:
    """Columns whose first values, however deep, are bytes that are neither text nor short."""
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
    kinds = dict(zip(unique_names(schema.names), schema.types, strict=True))
    return [name for name in types if holds_bytes(kinds[name]) and _is_of_pictures(file, name)]


def _is_of_pictures(file: SourceFile, name: str) -> bool:
    for piece in BoundedReading(file, only=[name], max_bytes=None).pieces(_FIRST_ROWS):
        column = piece.table.column(name)
        if column.null_count < len(column):
            return has_pictures(_one_array(column))
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
        if where.max_cell_bytes is None:
            tables = _tables(parquet, where.num_rows, start_row=where.start_row, only=only)
            return table_rows(next(tables), columns, CellLimit(None))
    reading = BoundedReading(file, only=only, max_bytes=where.max_cell_bytes)
    piece = reading.whole(where.start_row, where.num_rows)
    return table_rows(piece.table, columns, piece.limit)


def read_bytes_column(file: SourceFile, where: SourceRange, name: str) -> Iterator[bytes | None]:
    """The values of a column of bytes, or of `{bytes, path}`, one for each row of the range.

    A few are in memory at a time.
    """
    with open_parquet(file) as parquet:
        group, skip = find_group(parquet, where.start_row)
        groups = list(range(group, parquet.num_row_groups))
        values = (
            value
            for batch in record_batches(parquet, groups, _BYTES_AT_ONCE, only=[name])
            for value in bytes_of(batch.column(name))
        )
        yield from itertools.islice(values, skip, skip + where.num_rows)


def bytes_of(column: pa.Array) -> Iterator[bytes | None]:
    """Each value of a column of bytes, or of `{bytes, path}` as Hugging Face writes images."""
    column = plain(column)
    if pa.types.is_struct(column.type):
        column = column.flatten()[column.type.get_field_index("bytes")]
    yield from (value.as_py() for value in column)


def other_types(
    schema: pa.Schema, columns: TextColumns, config: ReadingConfig, file: SourceFile
) -> dict[str, str]:
    """Stored type of every column but the URL and the caption, which must be text; of captions
    that are lists it is said too.

    Raises:
        SourceError: the URL or the caption column holds something else.
    """
    named = dict(zip(unique_names(schema.names), schema.types, strict=True))
    texts = {columns.url, columns.caption}
    for option, name in (("url_column", columns.url), ("caption_column", columns.caption)):
        if name is None or not _is_no_text(named[name]):
            continue
        if name == columns.caption and is_list_of_texts(named[name]) and config.url_column != "":
            if config.captions is not None:
                texts.remove(name)
                continue
            raise SourceError(
                f"{file.uri}: the captions in {name!r} are lists of texts; set source.captions to "
                "first, longest or random"
            )
        raise SourceError(
            f"{file.uri}: source.{option} {name!r} is {named[name]}, not text; "
            f"the columns are: {', '.join(named)}"
        )
    return {
        name: "" if pa.types.is_null(kind) else stored_type(kind)
        for name, kind in named.items()
        if name not in texts
    }


def _is_no_text(kind: pa.DataType) -> bool:
    return stored_type(kind) != "string" or pa.types.is_nested(kind)


def _tables(
    parquet: pq.ParquetFile, num_rows: int, *, start_row: int, only: list[str]
) -> Iterator[pa.Table]:
    """Consecutive tables of `num_rows` rows from `start_row` on; the last may be shorter."""
    group, skip = find_group(parquet, start_row)
    groups = list(range(group, parquet.num_row_groups))
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in record_batches(parquet, groups, min(num_rows, 65_536), only=only):
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


def table_rows(
    table: pa.Table,
    columns: TextColumns,
    limit: CellLimit,
    *,
    notes: Counter[str] | None = None,
) -> RawRows:
    losses, lists = LostValues(), None
    if columns.caption and is_list_of_texts(table.schema.field(columns.caption).type):
        lists = caption_lists(_one_array(table.column(columns.caption)), losses)
    extra = {
        name: _one_array(table.column(name))
        for name in table.column_names
        if name != columns.url and (name != columns.caption or lists is not None)
    }
    one = columns.caption if lists is None else None
    url, caption = (_text(table, name, losses) for name in (columns.url, one))
    if losses.values and notes is not None:
        notes["URLs and captions with bytes that are no UTF-8, replaced by U+FFFD"] = losses.values
    too_large = limit.messages(columns.url, columns.caption, num_rows=table.num_rows)
    return raw_rows(url=url, caption=caption, extra=extra, captions=lists, too_large=too_large)


def _text(table: pa.Table, name: str | None, losses: LostValues) -> pa.Array:
    if name is None:
        return pa.nulls(table.num_rows, pa.string())
    return as_text(_one_array(table.column(name)), losses)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
