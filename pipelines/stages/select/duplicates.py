"""Exact duplicates over all shards, partitioned by hash so that memory stays bounded."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_NUM_PARTITIONS = 64
_SHARDS_PER_BUCKET = 256

CURATED_KEY_BYTES = 16
GENERATED_KEY_BYTES = 96


class DuplicateIndex:
    """Groups rows by sha256; the first in plan order stays.

    Rows are spilled to local files by hash, then looked at a partition at a time: memory is that
    of one partition (1/64 of the rows, 24 bytes and a key each).

    Args:
        folder: An empty local folder for the spill.
        key_bytes: The longest key there may be.
    """

    def __init__(self, folder: Path, *, key_bytes: int = CURATED_KEY_BYTES) -> None:
        self._folder = folder
        place = [("shard_id", "<i4"), ("row", "<i4"), ("key", f"S{key_bytes}")]
        self._candidate = np.dtype([("hash_high", "<u8"), ("hash_low", "<u8"), *place])
        self._copy = np.dtype(place)
        self._settled = False

    def add(self, shard_id: int, *, rows: np.ndarray, keys: list[str], sha256: list[str]) -> None:
        """Add a shard's rows that passed the rules: row numbers, keys and hex hashes."""
        records = np.empty(len(rows), self._candidate)
        digests = np.frombuffer(bytes.fromhex("".join(h[:32] for h in sha256)), ">u8")
        records["hash_high"], records["hash_low"] = digests[0::2], digests[1::2]
        records["key"] = np.array(keys, self._candidate["key"])
        records["shard_id"], records["row"] = shard_id, rows
        partition = records["hash_high"] % _NUM_PARTITIONS
        for number in np.unique(partition):
            self._append(f"candidates-{number}", records[partition == number])

    def settle(self) -> None:
        """Find the copies; call once, after the last `add`."""
        for number in range(_NUM_PARTITIONS):
            records = self._load(f"candidates-{number}", self._candidate)
            order = np.lexsort(
                (records["row"], records["shard_id"], records["hash_low"], records["hash_high"])
            )
            records = records[order]
            same = (records["hash_high"][1:] == records["hash_high"][:-1]) & (
                records["hash_low"][1:] == records["hash_low"][:-1]
            )
            is_copy = np.concatenate([[False], same]) if len(records) else np.empty(0, bool)
            first = np.maximum.accumulate(np.where(is_copy, 0, np.arange(len(records))))
            copies = np.empty(int(is_copy.sum()), self._copy)
            copies["shard_id"] = records["shard_id"][is_copy]
            copies["row"] = records["row"][is_copy]
            copies["key"] = records["key"][first[is_copy]]
            bucket = copies["shard_id"] // _SHARDS_PER_BUCKET
            for value in np.unique(bucket):
                self._append(f"copies-{value}", copies[bucket == value])
        self._settled = True

    def copies(self, num_shards: int) -> Iterator[np.ndarray]:
        """For each shard in order, its copies: row and the key of the first."""
        if not self._settled:
            raise RuntimeError("settle() comes before copies()")
        for start in range(0, num_shards, _SHARDS_PER_BUCKET):
            bucket = self._load(f"copies-{start // _SHARDS_PER_BUCKET}", self._copy)
            bucket = bucket[np.argsort(bucket["shard_id"], kind="stable")]
            for shard_id in range(start, min(start + _SHARDS_PER_BUCKET, num_shards)):
                low, high = np.searchsorted(bucket["shard_id"], [shard_id, shard_id + 1])
                yield bucket[low:high]

    def _append(self, name: str, records: np.ndarray) -> None:
        with (self._folder / name).open("ab") as stream:
            stream.write(records.tobytes())

    def _load(self, name: str, dtype: np.dtype) -> np.ndarray:
        path = self._folder / name
        return np.fromfile(path, dtype) if path.exists() else np.empty(0, dtype)
