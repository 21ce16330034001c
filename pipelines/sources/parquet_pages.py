"""The pages of a Parquet list, by their headers alone: how much memory they would take.

A page is decompressed whole, and its values may be many times its size: so pages that are too
large are refused before anything is decoded, and rows are read so few at a time that what they may
be at most fits.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow.parquet as pq

from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from sd_core.cache.parquet_pages import read_struct

MAX_PAGE_BYTES: Final = 256 << 20
_BATCH_BYTES: Final = 64 << 20
_BATCH_ROWS: Final = 65_536
_HEADER_BYTES: Final = 4 << 10
_MAX_HEADER_BYTES: Final = 32 << 20  # it may hold the least and the greatest value
_SIZE, _STORED_SIZE, _DICTIONARY_HEADER = 2, 3, 7
_DATA_HEADERS: Final = {5: 2, 8: 4}
"""The header of each kind of data page, and where in it the encoding stands."""
_DELTA_BYTE_ARRAY: Final = 7
_DICTIONARY_ENCODINGS: Final = (2, 8)
_WIDTHS: Final = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a header says of a page; a dictionary has no encoding."""

    num_bytes: int
    num_values: int
    encoding: int | None


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How a file's rows are read in bounded memory.

    Attributes:
        rows: How many at a time, by row group.
        dictionaries: Columns, by their paths, that are read as dictionaries.
        is_apart: Whether row groups are read one by one: Arrow cannot join nested dictionaries.
    """

    rows: Mapping[int, int]
    dictionaries: Collection[str]
    is_apart: bool


def reading_bounds(
    parquet: pq.ParquetFile, file: SourceFile, names: Collection[str], groups: Collection[int]
) -> Bounds:
    """Go over the page headers of these columns.

    Args:
        names: Of columns as the file has them.

    Raises:
        SourceError: a page is too large; names the file and the column.
    """
    rows: dict[int, int] = {}
    dictionaries: set[str] = set()
    mixed: set[str] = set()
    nested: set[str] = set()
    with file.open() as stream:
        for group in groups:
            metadata = parquet.metadata.row_group(group)
            row_bytes = 0.0
            for number in range(metadata.num_columns):
                chunk, column = metadata.column(number), parquet.schema.column(number)
                name = column.path.partition(".")[0]
                if name not in names:
                    continue
                found = list(_pages(stream, chunk, file))
                if column.physical_type == "BYTE_ARRAY" and any(map(_has_dictionary, found)):
                    dictionaries.add(column.path)
                if column.path != name:
                    nested.add(column.path)
                    mixed.update([] if all(map(_has_dictionary, found)) else [column.path])
                row_bytes += _row_bytes(column, found, metadata.num_rows, file)
            rows[group] = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(row_bytes, 1.0))))
    dictionaries -= mixed
    return Bounds(
        rows=rows,
        dictionaries=dictionaries,
        is_apart=not nested.isdisjoint(dictionaries),
    )


def _has_dictionary(page: Page) -> bool:
    return page.encoding is None or page.encoding in _DICTIONARY_ENCODINGS


def _row_bytes(column: Any, pages: list[Page], num_rows: int, file: SourceFile) -> float:
    """What a row of a column chunk takes at most, as a share of what its page holds."""
    kind = column.physical_type
    width = column.length if kind == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(kind, 4)
    if column.max_repetition_level == 0 and kind != "BYTE_ARRAY":
        return float(width)
    total, most, repeated = 0.0, 0.0, float(width)
    for page in pages:
        if page.encoding is None and column.max_repetition_level:
            repeated = max(repeated, page.num_bytes / max(1, page.num_values))
        if page.encoding is None:
            continue
        if page.encoding == _DELTA_BYTE_ARRAY:  # a value repeats as much as it likes of the last
            decoded = float(page.num_bytes) * max(1, page.num_values)
        elif kind == "BYTE_ARRAY" and not _has_dictionary(page):
            decoded = float(page.num_bytes)
        else:
            decoded = float(page.num_values) * repeated
        if column.max_repetition_level and page.num_values * width > MAX_PAGE_BYTES:
            raise SourceError(
                f"{file.uri}: column {column.path!r}: a page of {page.num_values} values; at most "
                f"{MAX_PAGE_BYTES // width} are read; write it with smaller pages"
            )
        most = max(most, decoded / max(1, page.num_values))
        total += decoded
    return total / max(1, num_rows) if column.max_repetition_level else most


def _pages(stream: IO[bytes], chunk: Any, file: SourceFile) -> Iterator[Page]:
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end = at + chunk.total_compressed_size
    while at < end:
        header, size = _header(stream, at, end, file)
        try:
            page = _page(header, chunk, file)
            at += size + max(0, header.get(_STORED_SIZE, 0))
        except (TypeError, ValueError, AttributeError):  # a field is of another kind
            raise _no_header(file, at) from None
        yield page


def _page(header: Mapping[int, Any], chunk: Any, file: SourceFile) -> Page:
    num_bytes = header.get(_SIZE, -1)
    if not 0 <= num_bytes <= MAX_PAGE_BYTES:
        raise SourceError(
            f"{file.uri}: column {chunk.path_in_schema!r}: a page of {num_bytes} bytes when it is "
            f"decompressed; at most {MAX_PAGE_BYTES} are read; write it with smaller pages"
        )
    for number, encoding_at in _DATA_HEADERS.items():
        data = header.get(number)
        if isinstance(data, dict):
            return Page(
                num_bytes=num_bytes,
                num_values=int(data.get(1, 0)),
                encoding=int(data.get(encoding_at, 0)),
            )
    values = header.get(_DICTIONARY_HEADER) or {}
    return Page(num_bytes=num_bytes, num_values=int(values.get(1, 0)), encoding=None)


def _header(
    stream: IO[bytes], at: int, end: int, file: SourceFile
) -> tuple[Mapping[int, Any], int]:
    """A page's header at a byte of the file, and how many bytes it takes."""
    size = _HEADER_BYTES
    while True:
        stream.seek(at)
        content = stream.read(min(size, end - at))
        try:
            return read_struct(content, 0)
        except IndexError:
            if size >= _MAX_HEADER_BYTES or len(content) < size:
                break
            size *= 8
        except (ValueError, RecursionError):
            break
    raise _no_header(file, at)


def _no_header(file: SourceFile, at: int) -> SourceError:
    return SourceError(
        f"{file.uri}: cannot be read as Parquet: no page's header at byte {at}; the file is "
        "damaged or is none"
    )
