"""Parquet as runs store it: page checksums, fixed settings, the same bytes for the same rows."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.store import RunStore

_ROW_GROUP_ROWS = 16_384


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet with page checksums (a flipped bit is found when read)."""
    pq.write_table(
        table,
        path,
        compression="zstd",
        row_group_size=_ROW_GROUP_ROWS,
        write_page_checksum=True,
    )


def table_bytes(table: pa.Table) -> bytes:
    """A small table as a Parquet file, with page checksums."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with other values in a column that it has."""
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), values)


def texts_of(column: pa.StringArray) -> bytes:
    """UTF-8 of all texts, one after another; no row is null.

    Raises:
        TypeError: other texts, whose buffers are others (`large_string`, a dictionary).
    """
    if not pa.types.is_string(column.type):
        raise TypeError(f"texts of {column.type}, not string")
    _, offsets, content = column.buffers()
    if content is None:
        return b""
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return content.slice(ends[0], ends[-1] - ends[0]).to_pybytes() if len(ends) else b""


def read_table(store: RunStore, path: str, *, columns: Iterable[str] | None = None) -> pa.Table:
    """Read a Parquet file of a run, verifying its page checksums."""
    if not store.is_local:
        return read_parquet(io.BytesIO(store.read_bytes(path)), columns=columns)
    with store.open(path) as stream:
        return read_parquet(stream, columns=columns)


def read_parquet(
    stream: IO[bytes], *, columns: Iterable[str] | Callable[[str], bool] | None = None
) -> pa.Table:
    """Read an open Parquet file, verifying its page checksums.

    Without Arrow's threads: they may outlive the call, and then abort a process that ends right
    after (apache/arrow 50482), so that a job that is done exits with 134. `pq.read_table` goes
    through Arrow's data sets, which read on such threads whatever it is told.

    Args:
        columns: Only these, in this order; or those of the file's, in its order, of which this is
            true; all by default.

    Raises:
        pa.ArrowInvalid: a column is not there, or the file is damaged.
    """
    with pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False) as parquet:
        if columns is None:
            return parquet.read(use_threads=False)
        there = parquet.schema_arrow.names
        names = [*filter(columns, there)] if callable(columns) else list(columns)
        if missing := set(names) - set(there):
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
        return parquet.read(columns=names, use_threads=False).select(names)
