"""A Parquet file's rows, a piece at a time, in memory that does not depend on what is in it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.columns import unique_names
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.parquet_pages import Bounds, reading_bounds
from pipelines.sources.row_pieces import RowPiece, decoded, first_rows, in_blocks

_READ_BUFFER_BYTES = 1 << 20


@contextmanager
def open_parquet(
    file: SourceFile, *, dictionaries: tuple[str, ...] = ()
) -> Iterator[pq.ParquetFile]:
    """The file's Parquet reader; every fault of it names the file."""
    with file.open() as stream:
        try:
            with pq.ParquetFile(
                stream,
                buffer_size=_READ_BUFFER_BYTES,
                pre_buffer=False,  # would keep every row group it has read
                page_checksum_verification=True,
                read_dictionary=list(dictionaries),
            ) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{file.uri}: cannot be read as Parquet: {error}; the file is damaged or is none"
            ) from error


def record_batches(
    parquet: pq.ParquetFile, groups: list[int], num_rows: int, *, only: list[str]
) -> Iterator[pa.RecordBatch]:
    """Those columns, in that order; names that come twice are told apart."""
    names = unique_names(parquet.schema_arrow.names)
    is_doubled = len(set(parquet.schema_arrow.names)) < len(names)
    for batch in parquet.iter_batches(
        batch_size=num_rows,
        row_groups=groups,
        columns=None if is_doubled else only,
        use_threads=False,
    ):
        if is_doubled:
            batch = batch.rename_columns(names)
        yield batch.select(only)


def find_group(parquet: pq.ParquetFile, start_row: int) -> tuple[int, int]:
    """The row group that holds `start_row`, and how many of its rows come before it."""
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        if start_row < rows:
            return group, start_row
        start_row -= rows
    return parquet.num_row_groups, 0


@dataclass(frozen=True)
class BoundedReading:
    """Columns of a file, read a few rows at a time.

    Attributes:
        only: The columns, in that order.
        max_bytes: Of a cell; None for any.
    """

    file: SourceFile
    only: list[str]
    max_bytes: int | None

    def pieces(self, rows_per_block: int) -> Iterator[RowPiece]:
        """All rows, as `in_blocks` parts them."""
        return in_blocks(self._parts(0), rows_per_block)

    def whole(self, start_row: int, num_rows: int) -> RowPiece:
        """The rows of one range."""
        return first_rows(self._parts(start_row), num_rows)

    @cached_property
    def _columns(self) -> set[str]:
        """As the file has them: those that come twice have one name there."""
        with open_parquet(self.file) as parquet:
            names = parquet.schema_arrow.names
        told = zip(unique_names(names), names, strict=True)
        is_doubled = len(set(names)) < len(names)
        return {name for unique, name in told if is_doubled or unique in self.only}

    def _bounds(self, start_row: int) -> tuple[Bounds, int]:
        """How the row groups from a row on are read, and how many rows come before it."""
        with open_parquet(self.file) as parquet:
            group, skip = find_group(parquet, start_row)
            groups = range(group, parquet.num_row_groups)
            return reading_bounds(parquet, self.file, self._columns, groups), skip

    def _parts(self, start_row: int) -> Iterator[RowPiece]:
        bounds, skip = self._bounds(start_row)
        with open_parquet(self.file, dictionaries=tuple(bounds.dictionaries)) as parquet:
            alike = itertools.groupby(
                bounds.rows, lambda group: (bounds.rows[group], bounds.is_apart and group)
            )
            for (num_rows, _), groups in alike:
                for batch in record_batches(parquet, list(groups), num_rows, only=self.only):
                    passed = min(skip, batch.num_rows)
                    skip -= passed
                    if passed < batch.num_rows:
                        yield from decoded(batch.slice(passed), self.max_bytes)
