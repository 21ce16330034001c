"""Where a Parquet column's values lie in its file, so that a row is read without decoding others.

Holds for what our writer makes: plain, uncompressed version 1 data pages of a list column without
nulls. Format: https://parquet.apache.org/docs/file-format/ and Thrift's compact protocol.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_core.errors import FoundryError

# Fields of a page's header, and values of theirs.
DATA_PAGE, PLAIN = 0, 0
TYPE, _SIZE, STORED_SIZE, STORED_CRC, DATA_HEADER = 1, 2, 3, 4, 5
NUM_VALUES, ENCODING = 1, 2
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _STRUCT = 1, 2, 3, 4, 5, 6, 12
_BINARY = 8


class PageError(FoundryError):
    """A page is damaged."""


@dataclass(frozen=True, kw_only=True)
class ValuePlaces:
    """The pages of one column in one row group.

    Args:
        starts: (pages + 1,) number of the first value of each page; the last is the count.
        offsets: (pages,) where in the file that value is.
        width: Bytes a value.
    """

    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    width: int

    def spans(self, first: int, count: int) -> list[tuple[int, int]]:
        """(offset, size) in bytes of values `first` to `first + count`, in order."""
        spans = []
        page = int(np.searchsorted(self.starts, first, side="right")) - 1
        end = first + count
        while first < end:
            start, stop = int(self.starts[page]), int(self.starts[page + 1])
            taken = min(end, stop) - first
            offset = int(self.offsets[page]) + (first - start) * self.width
            spans.append((offset, taken * self.width))
            first += taken
            page += 1
        return spans


def find_values(chunk: bytes, *, offset: int, num_values: int, width: int) -> ValuePlaces | None:
    """Walk a column chunk's pages.

    Args:
        chunk: Its bytes, from the first data page to the end.
        offset: Where in the file they begin.
        num_values: All of them, nulls included, as the file's footer says.
        width: Bytes a value, by its physical type.

    Returns:
        Their places, or None where the chunk is valid but written another way.

    Raises:
        PageError: a page is cut off, or its checksum is not that of its bytes.
    """
    try:
        return _walk(chunk, offset, num_values, width)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise PageError(f"no page's header where one should be, from byte {offset}") from None


def _walk(chunk: bytes, offset: int, num_values: int, width: int) -> ValuePlaces | None:
    starts, offsets = [0], []
    position = 0
    while position < len(chunk):
        header, begin = read_struct(chunk, position)
        size = header.get(STORED_SIZE, -1)
        position = begin + size
        if size < 0 or position > len(chunk):
            raise PageError(f"the page at byte {offset + begin} is cut off")
        page = memoryview(chunk)[begin:position]
        if STORED_CRC in header and zlib.crc32(page) != header[STORED_CRC] & 0xFFFFFFFF:
            raise PageError(f"CRC mismatch in the page at byte {offset + begin}")
        data = header.get(DATA_HEADER)
        if header.get(TYPE) != DATA_PAGE or data is None or data.get(ENCODING) != PLAIN:
            return None
        count = data[NUM_VALUES]
        levels = _levels_size(page)
        if header.get(_SIZE) != size or levels is None or size - levels != count * width:
            return None  # compressed, or with nulls
        starts.append(starts[-1] + count)
        offsets.append(offset + begin + levels)
    if starts[-1] != num_values:
        raise PageError(f"{starts[-1]} values from byte {offset}, the footer says {num_values}")
    return ValuePlaces(
        starts=np.array(starts, dtype=np.int64),
        offsets=np.array(offsets, dtype=np.int64),
        width=width,
    )


def _levels_size(page: memoryview) -> int | None:
    """Bytes of the repetition and the definition levels, each with its size before it."""
    size = 0
    for _ in range(2):
        if size + 4 > len(page):
            return None
        size += 4 + int.from_bytes(page[size : size + 4], "little")
    return size if size <= len(page) else None


def read_struct(chunk: bytes, position: int) -> tuple[dict[int, Any], int]:
    """A struct's fields by number, and where it ends; lists and doubles do not occur here.

    Raises:
        IndexError: it goes on behind the chunk.
        ValueError: it is none.
    """
    fields: dict[int, Any] = {}
    number = 0
    while byte := chunk[position]:
        position += 1
        delta, kind = byte >> 4, byte & 0x0F
        if delta:
            number += delta
        else:
            number, position = _read_signed(chunk, position)
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        elif kind == _BYTE:
            fields[number], position = chunk[position], position + 1
        elif kind in (_I16, _I32, _I64):
            fields[number], position = _read_signed(chunk, position)
        elif kind == _BINARY:
            size, position = _read_varint(chunk, position)
            fields[number], position = chunk[position : position + size], position + size
        elif kind == _STRUCT:
            fields[number], position = read_struct(chunk, position)
        else:
            raise ValueError(f"type {kind}")
    return fields, position + 1


def _read_varint(chunk: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = chunk[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _read_signed(chunk: bytes, position: int) -> tuple[int, int]:
    value, position = _read_varint(chunk, position)
    return (value >> 1) ^ -(value & 1), position
