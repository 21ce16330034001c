"""NumPy's files: a known header is viewed, another is read, and threads do not mind."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sd_core.cache.npy import NpyError, NpyFormat, load_npy


def _bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_arrays_of_any_shape_are_read_by_many_threads_at_once() -> None:
    """NumPy alone raises SystemError here under Python 3.11.7."""
    arrays = [np.full((2, 1 + number % 7), number, np.float16) for number in range(400)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(load_npy, [_bytes(array) for array in arrays] * 5))
    for array, read in zip(arrays * 5, found, strict=True):
        np.testing.assert_array_equal(array, read)


def test_an_array_of_another_header_is_read_too_and_what_is_none_is_said() -> None:
    form = NpyFormat.of((2, 3), "float16")
    own, other = np.ones((2, 3), np.float16), np.ones((3, 2), np.float16)
    for array in (own, other):
        content = np.frombuffer(_bytes(array), np.uint8)
        np.testing.assert_array_equal(form.parse(content), array)
    for broken in (b"", b"\x93NUMPY\x01\x00v", _bytes(own)[:-1], b"PK\x03\x04"):
        with pytest.raises(NpyError, match="an array cannot be read"):
            form.parse(np.frombuffer(broken, np.uint8))
