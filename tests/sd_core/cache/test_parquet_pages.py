"""Where Parquet's values lie: against pyarrow's own reading, and on damaged bytes."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_core.cache.parquet_pages import PageError, ValuePlaces, find_values

VALUES = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float16)


def write(**options: Any) -> tuple[bytes, int, int, int]:
    """A file's content, and its only column chunk's offset, size and number of values."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(VALUES.reshape(-1)), 30)
    sink = io.BytesIO()
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"x": column}), sink, **{**plain, **options})
    chunk = pq.read_metadata(sink).row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    return sink.getvalue(), start, chunk.total_compressed_size, chunk.num_values


def find(content: bytes, start: int, size: int, count: int) -> ValuePlaces | None:
    chunk = content[start : start + size]
    return find_values(chunk, offset=start, num_values=count, width=2)


@pytest.mark.parametrize("page_size", [1000, 5000, 1 << 20])
def test_every_row_lies_where_it_is_said_to(page_size: int) -> None:
    content, *chunk = write(data_page_size=page_size, write_page_checksum=True)
    places = find(content, *chunk)
    assert places is not None
    assert (len(places.offsets) > 1) == (page_size < 1 << 20)
    for row in range(200):
        spans = places.spans(row * 30, 30)
        found = b"".join(content[offset : offset + size] for offset, size in spans)
        assert found == VALUES[row].tobytes()


def test_a_row_may_straddle_pages() -> None:
    places = ValuePlaces(starts=np.array([0, 10, 12, 30]), offsets=np.array([5, 90, 200]), width=2)
    assert places.spans(0, 10) == [(5, 20)]
    assert places.spans(8, 4) == [(21, 4), (90, 4)]
    assert places.spans(9, 21) == [(23, 2), (90, 4), (200, 36)]
    assert places.spans(12, 6) == [(200, 12)]


@pytest.mark.parametrize(
    "options",
    [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_version": "2.0"}],
)
def test_a_chunk_that_is_written_another_way_has_no_places(options: dict[str, Any]) -> None:
    assert find(*write(**options)) is None


def test_a_chunk_with_nulls_has_no_places() -> None:
    values = pa.array([1.0, None, 3.0, 4.0] * 10, pa.float16())
    sink = io.BytesIO()
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(values, 4)})
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    chunk = pq.read_metadata(sink).row_group(0).column(0)
    place = chunk.data_page_offset, chunk.total_compressed_size, chunk.num_values
    assert find(sink.getvalue(), *place) is None


def test_every_flipped_byte_of_a_page_with_a_checksum_is_found() -> None:
    content, start, size, count = write(write_page_checksum=True)
    body = content.index(VALUES[0].tobytes())
    for position in range(body, body + 200, 7):
        changed = bytearray(content)
        changed[position] ^= 0x10
        with pytest.raises(PageError, match="CRC mismatch"):
            find(bytes(changed), start, size, count)


def test_bytes_that_are_no_page_raise_a_page_error_or_have_no_places() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        noise = generator.bytes(64)
        try:
            assert find_values(noise, offset=0, num_values=10, width=2) is None
        except PageError:
            continue
    for noise in (b"\x1c" * 5000, b"\xff" * 5000, b"\x15" + b"\x80" * 5000):
        with pytest.raises(PageError):
            find_values(noise, offset=0, num_values=10, width=2)


def test_a_cut_chunk_is_found() -> None:
    content, start, size, count = write(data_page_size=1000)
    with pytest.raises(PageError):
        find(content, start, size - 100, count)
    with pytest.raises(PageError, match="the footer says"):
        find(content, start, size, count + 1)
