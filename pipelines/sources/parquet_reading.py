"""A Parquet file's rows, a piece at a time, in memory that does not depend on what is in it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.arrow_text import plain
from pipelines.sources.cells import PIECE_BYTES, CellLimit, cell_bytes, slices
from pipelines.sources.columns import unique_names
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.parquet_pages import Bounds, reading_bounds

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


@dataclass(frozen=True, kw_only=True)
class RowPiece:
    """Consecutive rows without their cells that are too large, which `limit` tells."""

    table: pa.Table
    limit: CellLimit
    num_bytes: int


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
        """All rows; a piece ends at a multiple of `rows_per_block`, or before it gets large."""
        held: list[RowPiece] = []
        row = 0
        for part in self._parts(0):
            while part.table.num_rows:
                room = rows_per_block - row % rows_per_block
                taken, part = _split(part, room)
                if held and sum(p.num_bytes for p in held) + taken.num_bytes > PIECE_BYTES:
                    yield _joined(held)
                    held = []
                held.append(taken)
                row += taken.table.num_rows
                if row % rows_per_block == 0:
                    yield _joined(held)
                    held = []
        if held:
            yield _joined(held)

    def whole(self, start_row: int, num_rows: int) -> RowPiece:
        """The rows of one range."""
        held: list[RowPiece] = []
        for part in self._parts(start_row):
            taken, _ = _split(part, num_rows)
            held.append(taken)
            num_rows -= taken.table.num_rows
            if not num_rows:
                break
        return _joined(held)

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
                        yield from self._decoded(batch.slice(passed))

    def _decoded(self, batch: pa.RecordBatch) -> Iterator[RowPiece]:
        """The batch without dictionaries, in slices that are small without them."""
        limit = CellLimit(self.max_bytes)
        arrays = [limit.keep(n, batch.column(n)) for n in self.only]
        sizes = np.zeros(batch.num_rows, np.int64)
        for array in arrays:
            sizes += cell_bytes(array)
        for start, end in slices(sizes):
            part = [plain(array.slice(start, end - start)) for array in arrays]
            rows = {name: over[start:end] for name, over in limit.rows.items()}
            yield RowPiece(
                table=pa.table(part, names=self.only),
                limit=CellLimit(self.max_bytes, {n: o for n, o in rows.items() if o.any()}),
                num_bytes=int(sizes[start:end].sum()),
            )


def _split(piece: RowPiece, num_rows: int) -> tuple[RowPiece, RowPiece]:
    """Its first rows, and the others."""
    if num_rows >= piece.table.num_rows:
        return piece, RowPiece(table=piece.table.slice(0, 0), limit=CellLimit(None), num_bytes=0)
    parts = []
    for start, end in ((0, num_rows), (num_rows, piece.table.num_rows)):
        rows = {name: over[start:end] for name, over in piece.limit.rows.items()}
        parts.append(
            RowPiece(
                table=piece.table.slice(start, end - start),
                limit=CellLimit(piece.limit.max_bytes, {n: o for n, o in rows.items() if o.any()}),
                num_bytes=piece.num_bytes * (end - start) // piece.table.num_rows,
            )
        )
    return parts[0], parts[1]


def _joined(pieces: list[RowPiece]) -> RowPiece:
    """Pieces that follow each other, as one."""
    limit = CellLimit(pieces[0].limit.max_bytes)
    for name in {name for piece in pieces for name in piece.limit.rows}:
        limit.rows[name] = np.concatenate(
            [p.limit.rows.get(name, np.zeros(p.table.num_rows, np.bool_)) for p in pieces]
        )
    return RowPiece(
        table=pa.concat_tables([piece.table for piece in pieces]),
        limit=limit,
        num_bytes=sum(piece.num_bytes for piece in pieces),
    )
