"""NumPy's files: a known header is viewed, another is read, and threads do not mind."""

import gc
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sd_core.cache.npy import NpyError, NpyFormats, load_npy


def _bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Garbage is collected all the time, and each time another thread may run."""

    def look(*_: object) -> None:
        time.sleep(0.0001)

    before = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(look)


@pytest.mark.usefixtures("interrupted")
def test_arrays_of_any_shape_are_read_by_many_threads_at_once() -> None:
    """NumPy alone raises SystemError here under Python 3.11.7, in about one of 200."""
    arrays = [np.full((2, 1 + number % 7), number, np.float16) for number in range(100)] * 5
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(load_npy, [_bytes(array) for array in arrays]))
    for array, read in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(array, read)


def test_an_array_of_another_header_is_read_too_and_what_is_none_is_said() -> None:
    form = NpyFormats.of(((3, 2), (2, 3)), "float16")
    own, other = np.ones((2, 3), np.float16), np.ones((6, 1), np.float16)
    for array in (own, own.reshape(3, 2), other):
        content = np.frombuffer(_bytes(array), np.uint8)
        np.testing.assert_array_equal(form.parse(content), array)
    for broken in (b"", b"\x93NUMPY\x01\x00v", _bytes(own)[:-1], b"PK\x03\x04"):
        with pytest.raises(NpyError, match="an array cannot be read"):
            form.parse(np.frombuffer(broken, np.uint8))
