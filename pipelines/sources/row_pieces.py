"""Rows of Arrow, a few at a time, without their cells that are larger than allowed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.sources.arrow_text import plain
from pipelines.sources.cells import PIECE_BYTES, CellLimit, cell_bytes, slices


@dataclass(frozen=True, kw_only=True)
class RowPiece:
    """Consecutive rows without their cells that are too large, which `limit` tells."""

    table: pa.Table
    limit: CellLimit
    num_bytes: int

    def part(self, start: int, end: int) -> "RowPiece":
        """The rows from `start` on and before `end`."""
        return RowPiece(
            table=self.table.slice(start, end - start),
            limit=self.limit.part(start, end),
            num_bytes=self.num_bytes * (end - start) // max(1, self.table.num_rows),
        )


def decoded(batch: pa.RecordBatch, max_bytes: int | None) -> Iterator[RowPiece]:
    """A batch without dictionaries, in slices that are small without them.

    Args:
        max_bytes: Of a cell; None for any.
    """
    limit = CellLimit(max_bytes)
    names = batch.schema.names
    arrays = [limit.keep(name, array) for name, array in zip(names, batch.columns, strict=True)]
    sizes = np.zeros(batch.num_rows, np.int64)
    for array in arrays:
        sizes += cell_bytes(array)
    for start, end in slices(sizes):
        part = [plain(array.slice(start, end - start)) for array in arrays]
        yield RowPiece(
            table=pa.table(part, names=names),
            limit=limit.part(start, end),
            num_bytes=int(sizes[start:end].sum()),
        )


def in_blocks(parts: Iterator[RowPiece], rows_per_block: int) -> Iterator[RowPiece]:
    """All rows; a piece ends at a multiple of `rows_per_block`, or before it gets large."""
    held: list[RowPiece] = []
    row = 0
    for part in parts:
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


def first_rows(parts: Iterator[RowPiece], num_rows: int) -> RowPiece:
    held: list[RowPiece] = []
    for part in parts:
        taken, _ = _split(part, num_rows)
        held.append(taken)
        num_rows -= taken.table.num_rows
        if not num_rows:
            break
    return _joined(held)


def _split(piece: RowPiece, num_rows: int) -> tuple[RowPiece, RowPiece]:
    """Its first rows, and the others."""
    num_rows = min(num_rows, piece.table.num_rows)
    return piece.part(0, num_rows), piece.part(num_rows, piece.table.num_rows)


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
