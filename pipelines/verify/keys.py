"""Keys of a whole run, compared on disk: memory is that of one partition."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.rows.keys import ROW_KEY, blake2b_64, is_key

_NUM_PARTITIONS = 256
_BUFFER_RECORDS = 1 << 20

_RECORD = np.dtype([("key", "<u8"), ("shard_id", "<i4")])
SpilledKeys = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class KeyPlace:
    """A key and a shard that holds it; `other_shard` where a second one does."""

    key: str
    shard_id: int
    other_shard: int | None = None


def key_digits(keys: pa.ChunkedArray | Iterable[str]) -> tuple[str, ...]:
    """Each key as 16 hex digits, of which a curated row's consists; any other is hashed to them."""
    found = keys.to_pylist() if isinstance(keys, pa.ChunkedArray) else keys
    return tuple(
        key if is_key(key, ROW_KEY) else blake2b_64(key.encode()).hex()
        for key in found
        if key is not None
    )


class KeySpill:
    """Collects the keys of every shard in local files, partitioned by the key's first byte.

    Args:
        folder: A local folder; 12 bytes a key are written.
        name: Tells the files of one spill from those of another in the same folder.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._name = name
        self._buffer: list[SpilledKeys] = []
        self._buffered = 0
        self._partitions: set[int] = set()

    def add(self, shard_id: int, keys: Iterable[str]) -> None:
        """Add a shard's keys, 16 hex digits each."""
        values = np.frombuffer(bytes.fromhex("".join(keys)), ">u8")
        records = np.empty(len(values), _RECORD)
        records["key"], records["shard_id"] = values, shard_id
        self._buffer.append(records)
        self._buffered += len(records)
        if self._buffered >= _BUFFER_RECORDS:
            self._flush()

    def repeated(self) -> Iterator[KeyPlace]:
        """Each key that occurs again, with the shards of both occurrences."""
        self._flush()
        for number in sorted(self._partitions):
            records = self._load(number)
            again = np.flatnonzero(records["key"][1:] == records["key"][:-1])
            for at in again:
                yield _place(records[at], other=int(records[at + 1]["shard_id"]))

    def missing_from(self, other: "KeySpill") -> Iterator[KeyPlace]:
        """Each key that `other` does not have."""
        self._flush()
        other._flush()
        for number in sorted(self._partitions):
            ours, theirs = self._load(number), other._load(number)
            for at in np.flatnonzero(~np.isin(ours["key"], theirs["key"])):
                yield _place(ours[at])

    def _load(self, partition: int) -> SpilledKeys:
        path = self._path(partition)
        records = np.fromfile(path, _RECORD) if path.exists() else np.empty(0, _RECORD)
        return records[np.lexsort((records["shard_id"], records["key"]))]

    def _flush(self) -> None:
        if not self._buffer:
            return
        records = np.concatenate(self._buffer)
        self._buffer, self._buffered = [], 0
        numbers = (records["key"] >> np.uint64(56)).astype(np.intp)
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], np.arange(_NUM_PARTITIONS + 1))
        for number in np.unique(numbers).tolist():
            self._partitions.add(number)
            with self._path(number).open("ab") as stream:
                stream.write(records[order[bounds[number] : bounds[number + 1]]].tobytes())

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number:03d}"


def _place(record: np.void, *, other: int | None = None) -> KeyPlace:
    return KeyPlace(
        key=f"{int(record['key']):016x}", shard_id=int(record["shard_id"]), other_shard=other
    )
