"""Random access to the binary columns of an open Parquet file: a row's bytes are read where they
lie, once the page that holds them was held against its checksum.

Holds for what our writers make: plain, uncompressed version 1 data pages of a required column.
"""

import io
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.parquet_pages import (
    DATA_HEADER,
    DATA_PAGE,
    ENCODING,
    NUM_VALUES,
    PLAIN,
    STORED_CRC,
    STORED_SIZE,
    TYPE,
    PageError,
    read_struct,
)

ROWS_PER_GROUP = 64
_LENGTH = 4

_Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Offsets in the file and sizes, of a row group's values."""


def binary_writer(
    path: str, schema: pa.Schema, *, compressed: Sequence[str] = ()
) -> pq.ParquetWriter:
    """A writer of files that `BinaryColumns` reads; the same rows give the same bytes.

    Give it tables of `ROWS_PER_GROUP` rows, each of which becomes a row group.

    Args:
        compressed: Columns that nobody reads at random.
    """
    return pq.ParquetWriter(
        path,
        schema,
        compression=dict.fromkeys(compressed, "zstd") or "none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        data_page_version="1.0",
    )


class BinaryColumns:
    """Binary columns of a file.

    Args:
        file: The file, which stays the caller's.
        parquet: The same, opened.
        names: Which columns; each `binary` and not nullable.

    Raises:
        PageError: a column is not there or was written another way.
    """

    def __init__(self, file: io.FileIO, parquet: pq.ParquetFile, names: Sequence[str]) -> None:
        self._file, self._metadata = file, parquet.metadata
        counts = [
            self._metadata.row_group(group).num_rows
            for group in range(self._metadata.num_row_groups)
        ]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._numbers = {name: self._number_of(parquet.schema, name) for name in names}
        self._places: dict[tuple[str, int], _Places] = {}

    def read(self, name: str, row: int) -> bytes:
        """One value.

        Raises:
            PageError: its page is damaged.
            OSError: the file cannot be read.
        """
        group = int(np.searchsorted(self._ends, row, side="right"))
        if (name, group) not in self._places:
            self._places[name, group] = self._find(name, group)
        offsets, sizes = self._places[name, group]
        within = row - (int(self._ends[group - 1]) if group else 0)
        self._file.seek(int(offsets[within]))
        content = self._file.read(int(sizes[within]))
        if len(content) != sizes[within]:
            raise PageError(f"{name} of row {row}: the file ends early")
        return content

    def _number_of(self, schema: pq.ParquetSchema, name: str) -> int:
        for number in range(len(schema)):
            column = schema.column(number)
            if column.path == name and column.physical_type == "BYTE_ARRAY":
                if column.max_definition_level or column.max_repetition_level:
                    raise PageError(f"column {name} may be null, or is a list; ours are neither")
                return number
        raise PageError(f"no binary column {name}")

    def _find(self, name: str, group: int) -> _Places:
        """Where a group's values lie; reads all of them, for the checksums."""
        metadata = self._metadata.row_group(group)
        column = metadata.column(self._numbers[name])
        size = column.total_compressed_size
        if size != column.total_uncompressed_size or column.has_dictionary_page:
            raise PageError(f"column {name} is compressed or has a dictionary; ours has not")
        self._file.seek(column.data_page_offset)
        chunk = self._file.read(size)
        if len(chunk) != size:
            raise PageError(f"column {name}: the file ends early")
        try:
            offsets, sizes = _walk(chunk, column.data_page_offset)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise PageError(f"column {name}: no page's header where one should be") from None
        if len(offsets) != metadata.num_rows:
            raise PageError(
                f"column {name}: {len(offsets)} values, the footer says {metadata.num_rows}"
            )
        return offsets, sizes


def _walk(chunk: bytes, offset: int) -> _Places:
    offsets, sizes = list[int](), list[int]()
    position = 0
    while position < len(chunk):
        header, begin = read_struct(chunk, position)
        position = begin + header.get(STORED_SIZE, len(chunk))
        if not begin <= position <= len(chunk):
            raise PageError(f"the page at byte {offset + begin} is cut off")
        page = memoryview(chunk)[begin:position]
        if STORED_CRC in header and zlib.crc32(page) != header[STORED_CRC] & 0xFFFFFFFF:
            raise PageError(f"CRC mismatch in the page at byte {offset + begin}")
        data = header.get(DATA_HEADER)
        if header.get(TYPE) != DATA_PAGE or data is None or data.get(ENCODING) != PLAIN:
            raise PageError(f"the page at byte {offset + begin} is none of plain values")
        place = begin
        for _ in range(data[NUM_VALUES]):
            size = int.from_bytes(chunk[place : place + _LENGTH], "little")
            offsets.append(offset + place + _LENGTH)
            sizes.append(size)
            place += _LENGTH + size
        if place != position:
            raise PageError(f"the page at byte {offset + begin} holds other values than it says")
    return np.array(offsets, np.int64), np.array(sizes, np.int64)
