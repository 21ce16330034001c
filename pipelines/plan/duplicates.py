"""Duplicates and key collisions among all rows of a plan, in bounded memory.

Each row leaves 32 bytes. Beyond a buffer they go to 256 local files by the key's first byte;
each file is then sorted alone, so that a billion rows need 32 GB of scratch disk and about
300 MB of memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from pipelines.rows.keys import RowHashes

NUM_PARTITIONS = 256
BUFFERED_ROWS = 1 << 16

ROW = np.dtype([("key", ">u8"), ("check", ">u8", (2,)), ("shard_id", "<u4"), ("row", "<u4")])
SETTLED = np.dtype([("shard_id", "<u4"), ("row", "<u4"), ("reason", "u1")])
SETTLED_REASONS = ("duplicate_row", "key_collision")

KeyRecords = npt.NDArray[np.void]


class _Partitions:
    """Records appended to local files by partition; small sets never leave memory."""

    def __init__(self, folder: Path, dtype: np.dtype[np.void], name: str) -> None:
        self._folder, self._dtype, self._name = folder, dtype, name
        self._held: list[KeyRecords] = []
        self._partitions: list[npt.NDArray[np.intp]] = []
        self._num_held = 0
        self._spilled = False

    def add(self, records: KeyRecords, partitions: npt.NDArray[np.intp]) -> None:
        self._held.append(records)
        self._partitions.append(partitions)
        self._num_held += len(records)
        if self._num_held >= BUFFERED_ROWS:
            for partition, part in self._sorted():
                with self._path(partition).open("ab") as stream:
                    stream.write(part.tobytes())
            self._spilled = True
            self._held, self._partitions, self._num_held = [], [], 0

    def __iter__(self) -> Iterator[KeyRecords]:
        """The records of each partition that has any, partition by partition."""
        held = dict(self._sorted())
        for partition in range(NUM_PARTITIONS) if self._spilled else sorted(held):
            parts = [held[partition]] if partition in held else []
            if self._spilled and self._path(partition).exists():
                parts.insert(0, np.fromfile(self._path(partition), dtype=self._dtype))
            if parts:
                yield np.concatenate(parts)

    def _sorted(self) -> Iterator[tuple[int, KeyRecords]]:
        if not self._held:
            return
        records = np.concatenate(self._held)
        partitions = np.concatenate(self._partitions)
        order = np.argsort(partitions, kind="stable")
        records, partitions = records[order], partitions[order]
        bounds = np.searchsorted(partitions, np.arange(NUM_PARTITIONS + 1))
        for partition in range(NUM_PARTITIONS):
            if bounds[partition] < bounds[partition + 1]:
                yield partition, records[bounds[partition] : bounds[partition + 1]]

    def _path(self, partition: int) -> Path:
        return self._folder / f"{self._name}-{partition:03d}"


class DuplicateFinder:
    """Collects rows in any order, then says which lose to an earlier one.

    Args:
        folder: Local scratch space, emptied by the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = _Partitions(folder, ROW, "rows")
        self._num_shards = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for path in self._folder.iterdir():
            path.unlink()

    def add(
        self,
        hashes: RowHashes,
        *,
        shard_id: int,
        usable: npt.NDArray[np.bool_],
        first_row: int = 0,
    ) -> None:
        """Take in a shard's rows from `first_row` on; those not `usable` neither win nor lose."""
        rows = np.flatnonzero(usable)
        records = np.empty(len(rows), dtype=ROW)
        records["key"] = hashes.key.view(">u8")[rows]
        records["check"] = hashes.check.view(">u8").reshape(-1, 2)[rows]
        records["shard_id"] = shard_id
        records["row"] = first_row + rows
        self._rows.add(records, (records["key"] >> np.uint64(56)).astype(np.intp))
        self._num_shards = max(self._num_shards, shard_id + 1)

    def settled(self) -> Iterator[KeyRecords]:
        """The rows that lose (`SETTLED`), one array a shard that has any, in shard order."""
        settled = _Partitions(self._folder, SETTLED, "settled")
        for records in self._rows:
            losers = find_losers(records)
            partitions = losers["shard_id"].astype(np.int64) * NUM_PARTITIONS // self._num_shards
            settled.add(losers, partitions.astype(np.intp))
        for losers in settled:
            losers = losers[np.lexsort((losers["row"], losers["shard_id"]))]
            _, starts = np.unique(losers["shard_id"], return_index=True)
            yield from np.split(losers, starts[1:])


def find_losers(records: KeyRecords) -> KeyRecords:
    """Among rows of `ROW`, those whose key an earlier row has: `SETTLED`, in no useful order.

    The earliest in plan order wins; the same check hash makes the others duplicates of it,
    another one makes them collisions.
    """
    order = np.lexsort((records["row"], records["shard_id"], records["key"]))
    records = records[order]
    first = np.ones(len(records), dtype=bool)
    first[1:] = records["key"][1:] != records["key"][:-1]
    winners = np.maximum.accumulate(np.where(first, np.arange(len(records)), 0))
    same = (records["check"] == records["check"][winners]).all(axis=1)
    lost = ~first
    losers = np.empty(int(lost.sum()), dtype=SETTLED)
    losers["shard_id"] = records["shard_id"][lost]
    losers["row"] = records["row"][lost]
    losers["reason"] = np.where(same[lost], 0, 1)
    return losers
