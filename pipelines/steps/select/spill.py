"""Fixed-size records on local disk, partitioned so that memory is that of one partition."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SpilledRecords = npt.NDArray[np.void]

_BUFFER_BYTES = 8 << 20


class Spill:
    """Records in files by partition, in the order they were added.

    Args:
        folder: A local folder.
        name: Tells its files from those of another spill there.
        num_partitions: How many files.
    """

    def __init__(
        self, folder: Path, *, name: str, dtype: np.dtype, num_partitions: int = 64
    ) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self.num_partitions = num_partitions
        self._buffer: list[tuple[SpilledRecords, npt.NDArray[np.int64]]] = []
        self._buffered = 0
        self.num_records = 0

    def add(self, records: SpilledRecords, partitions: npt.NDArray[np.integer]) -> None:
        """Add records, each to the partition of this number."""
        self._buffer.append((records, partitions.astype(np.int64)))
        self._buffered += records.nbytes
        self.num_records += len(records)
        if self._buffered >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        if not self._buffer:
            return
        records = np.concatenate([part for part, _ in self._buffer])
        numbers = np.concatenate([number for _, number in self._buffer])
        self._buffer, self._buffered = [], 0
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(self.num_partitions + 1))
        for number in np.unique(numbers).tolist():
            with self._path(number).open("ab") as stream:
                stream.write(records[order[bounds[number] : bounds[number + 1]]].tobytes())

    def load(self, number: int) -> SpilledRecords:
        """One partition whole."""
        self.flush()
        path = self._path(number)
        return np.fromfile(path, self._dtype) if path.exists() else np.empty(0, self._dtype)

    def partitions(self) -> Iterator[SpilledRecords]:
        for number in range(self.num_partitions):
            yield self.load(number)

    def chunks(self, number: int, *, size: int = 1 << 20) -> Iterator[SpilledRecords]:
        """One partition in pieces."""
        self.flush()
        path = self._path(number)
        if not path.exists():
            return
        with path.open("rb") as stream:
            while content := stream.read(size * self._dtype.itemsize):
                yield np.frombuffer(content, self._dtype)

    def remove(self) -> None:
        """Delete the files."""
        for number in range(self.num_partitions):
            self._path(number).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number}"


@dataclass(frozen=True)
class Entry:
    """Records that are to be added to a spill when it is their turn."""

    spill: Spill
    records: SpilledRecords
    partitions: npt.NDArray[np.integer]

    def add(self) -> None:
        """Do it."""
        self.spill.add(self.records, self.partitions)
