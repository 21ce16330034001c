"""Crops wait on local disk, in the order they come, until the shard is written in plan order."""

import os
import threading
from pathlib import Path


class CropSpool:
    """An append-only local file of crops with an index by row.

    Memory holds the index alone: a shard of 10,000 crops would be most of a gigabyte.

    Args:
        path: A new file; the caller removes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb+")
        self._lock = threading.Lock()
        self._index: dict[int, tuple[int, int]] = {}
        self._end = 0

    def add(self, row: int, crop: bytes) -> None:
        """Append a row's crop; raises OSError where the disk is full, ValueError for a second."""
        with self._lock:
            if row in self._index:
                raise ValueError(f"row {row} has a crop already")
            self._file.write(crop)
            self._index[row] = (self._end, len(crop))
            self._end += len(crop)

    def read(self, row: int) -> bytes:
        """A row's crop; raises KeyError where it has none."""
        offset, length = self._index[row]
        with self._lock:
            self._file.flush()
        return os.pread(self._file.fileno(), length, offset)

    def __contains__(self, row: int) -> bool:
        return row in self._index

    def __len__(self) -> int:
        return len(self._index)

    def close(self) -> None:
        self._file.close()
