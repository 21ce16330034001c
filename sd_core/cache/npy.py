"""NumPy's own file format (.npy), read by several threads at once.

NumPy reads a header by Python's parser, which in 3.11 up to 3.11.7 and in 3.12 up to 3.12.1 fails
where two threads use it at a time (python/cpython 106905): hence the header that is known
beforehand, and one lock for all others.
"""

import io
import threading
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from sd_core.errors import FoundryError

_ONE_AT_A_TIME: Final = threading.Lock()


class NpyError(FoundryError):
    """Bytes are no array."""


def load_npy(content: bytes) -> npt.NDArray[Any]:
    """An array of its own; raises `NpyError`."""
    try:
        with _ONE_AT_A_TIME:
            array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy lets out what its own parser raises
        raise NpyError(f"an array cannot be read: {error}") from error
    return array


class NpyFormat:
    """Arrays of one shape and dtype, whose header is known beforehand."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.empty(shape, dtype), version=(1, 0))
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._size = buffer.getbuffer().nbytes
        self._start = self._size - int(np.prod(shape)) * self._dtype.itemsize
        self._header = buffer.getvalue()[: self._start]

    def view(self, content: npt.NDArray[np.uint8]) -> npt.NDArray[Any] | None:
        """A view of the content; None where its header is another one."""
        if content.size == self._size and content[: self._start].tobytes() == self._header:
            return content[self._start :].view(self._dtype).reshape(self._shape)
        return None


class NpyFormats:
    """Arrays of a few shapes and one dtype."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...], dtype: str) -> None:
        self._formats = [NpyFormat(shape, dtype) for shape in shapes]

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, shapes: tuple[tuple[int, ...], ...], dtype: str) -> Self:
        """The same, made once."""
        return cls(shapes, dtype)

    def parse(self, content: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """A view of the content, or a copy where its header is none of theirs.

        Raises:
            NpyError: it is no array.
        """
        for form in self._formats:
            if (found := form.view(content)) is not None:
                return found
        return load_npy(content.tobytes())
