"""How large the cells of a column are, and what becomes of those that are larger than allowed.

A list of a few kilobytes can hold gigabytes: dictionaries, prefixes and compression name a text
once and repeat it for every row. So cells are measured as they are encoded, and large ones go
before anything makes texts of them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.arrow_text import as_pairs, is_bytes, is_text, plain

TOO_LARGE: Final = "cell_too_large"
PIECE_BYTES: Final = 16 << 20
"""Of a list's cells in memory at a time while it is planned; one row may be more."""
_SHARD_BYTES: Final = 256 << 20
_SHARD_BYTES_A_ROW: Final = 4 << 10

Sizes = npt.NDArray[np.int64]


@dataclass
class CellLimit:
    """What the cells of a range of rows may be at most, and which of them are not.

    Attributes:
        max_bytes: Of a cell; None for a plan of before there was a limit.
        rows: By column, which rows have such a cell.
    """

    max_bytes: int | None
    rows: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    def keep(self, name: str, array: pa.Array) -> pa.Array:
        """The column with null in the place of each such cell."""
        if self.max_bytes is None or array.nbytes <= self.max_bytes:
            return array
        over = cell_bytes(array) > self.max_bytes
        if not over.any():
            return array
        self.rows[name] = over
        return _without(array, self.max_bytes)

    def part(self, start: int, end: int) -> "CellLimit":
        """Of the rows from `start` on and before `end`."""
        rows = {name: over[start:end] for name, over in self.rows.items()}
        return CellLimit(self.max_bytes, {name: over for name, over in rows.items() if over.any()})

    @property
    def places(self) -> list[int]:
        """Which rows have one in any column."""
        found = {int(row) for over in self.rows.values() for row in np.flatnonzero(over)}
        return sorted(found)

    def messages(self, *names: str | None, num_rows: int) -> list[str | None] | None:
        """What is said of each row in which one of these columns, the URL's and the caption's, has
        such a cell; None where there is none."""
        found: list[str | None] = [None] * num_rows
        told = [name for name in names if name in self.rows]
        for name in reversed(told):
            for row in np.flatnonzero(self.rows[name]):
                found[row] = too_large_message(name)
        return found if told else None


def too_large_message(name: str) -> str:
    """What is said of a row whose URL or caption, in this column, is larger than allowed."""
    return f"{name}: larger than a cell may be"


def lost_cells(limit: int | None, counts: Counter[str]) -> Counter[str]:
    """Notes on cells of other columns, which are null, from how many each column has."""
    return Counter(
        {
            f"values of the column {name!r} have more than {limit} bytes and are null": count
            for name, count in counts.items()
        }
    )


def cell_bytes(array: pa.Array) -> Sizes:
    """Bytes of each cell without its encoding; of nested ones, of all the values in them."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return cell_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        sizes: Sizes = np.append(cell_bytes(array.dictionary), 0)
        return sizes.take(_integers(pc.fill_null(array.indices.cast(pa.int64()), len(sizes) - 1)))
    array = plain(array)
    kind = array.type
    if is_text(kind) or is_bytes(kind):
        return _integers(pc.binary_length(array))
    if pa.types.is_map(kind):
        return cell_bytes(array.cast(as_pairs(kind)))
    if pa.types.is_struct(kind):
        return sum((cell_bytes(part) for part in array.flatten()), np.zeros(len(array), np.int64))
    if pa.types.is_nested(kind):
        ends: Sizes = np.cumsum(np.append(0, cell_bytes(pc.list_flatten(array))))
        places = np.cumsum(np.append(0, _integers(pc.list_value_length(array))))
        return np.diff(ends.take(places))
    width = 0 if pa.types.is_null(kind) else max(1, kind.bit_width // 8)
    return np.full(len(array), width, np.int64)


def _integers(array: pa.Array) -> Sizes:
    return np.asarray(pc.fill_null(array, 0)).astype(np.int64)


def _without(array: pa.Array, max_bytes: int) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return pa.DictionaryArray.from_arrays(array.indices, _without(array.dictionary, max_bytes))
    over = cell_bytes(array) > max_bytes
    return array.take(pa.array(np.arange(len(array)), mask=over))


def slices(sizes: Sizes) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of rows, each of `PIECE_BYTES` at most or of one row."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        end = int(np.searchsorted(ends, before + PIECE_BYTES, side="right"))
        end = max(start + 1, end)
        yield start, end
        start = end


@dataclass
class ShardCut:
    """Where shards begin: at every so many rows, and within them where their texts are too many.

    Attributes:
        rows_per_shard: As the plan has it; a shard of so many may hold 4 KiB a row, or 256 MiB.
    """

    rows_per_shard: int
    _held: int = 0

    def begins(self, row: int, num_bytes: int) -> bool:
        """Whether a piece of so many bytes, which begins at a row of the file, begins a shard."""
        limit = max(_SHARD_BYTES, _SHARD_BYTES_A_ROW * self.rows_per_shard)
        begins = row % self.rows_per_shard == 0 or self._held + num_bytes > limit
        self._held = num_bytes if begins else self._held + num_bytes
        return begins
