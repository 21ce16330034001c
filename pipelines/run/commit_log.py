"""The commit log: the manifests of a thousand shards in one file, once all of them are there.

While a step runs, the manifest of each shard is the truth. Whoever reads many of them goes by the
log: of each thousand shards in a row there is one segment, written when the last of these is
committed, and the same bytes whenever that is. A manifest never changes, so a segment never does;
shards of a thousand that is not whole, and those of runs made before there was a log, are read one
by one.
"""

import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import pyarrow as pa

from pipelines.run.manifest import Manifest, ShardError, manifest_of, manifests_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet, table_bytes
from sd_core.sealed import sha256_of_bytes

SHARDS_PER_SEGMENT: Final = 1_000
_SCHEMA: Final = pa.schema([("shard_id", pa.int32()), ("manifest", pa.binary())])
_PREFIX, _SUFFIX = "log-", ".parquet"
_HELD: Final = 4
"""Segments in memory, a megabyte each."""

Segment = Mapping[int, bytes]
"""Shard to its manifest as it is written; empty where there is no segment, or a damaged one."""


def segment_shards(number: int) -> range:
    """The shards of a segment."""
    return range(number * SHARDS_PER_SEGMENT, (number + 1) * SHARDS_PER_SEGMENT)


def segment_of(name: str) -> int | None:
    """Which segment a file beside the manifests is; None where it is another."""
    digits = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    return int(digits) if name == f"{_PREFIX}{digits}{_SUFFIX}" and digits.isdigit() else None


@dataclass
class CommitLog:
    """The log of one step under one fingerprint; safe to be read by several threads.

    Attributes:
        added: Manifests of this process, by segment, until their thousand is whole.
        there: The segments that a listing found; None: each is asked for.
        digests: sha256 by path of the segments that were read or written.
    """

    store: RunStore
    step: str
    fingerprint: str
    added: dict[int, dict[int, Manifest]] = field(default_factory=dict)
    there: set[int] | None = None
    digests: dict[str, str] = field(default_factory=dict)
    _read: OrderedDict[int, Segment] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    def path(self, number: int) -> str:
        """Where a segment lies in the run."""
        folder = manifests_folder(self.step, self.fingerprint)
        return f"{folder}/{_PREFIX}{number:06d}{_SUFFIX}"

    def path_of(self, shard_id: int) -> str:
        """Where the segment of a shard lies, if there is one."""
        return self.path(shard_id // SHARDS_PER_SEGMENT)

    def find(self, shard_id: int) -> Manifest | None:
        """A shard's manifest; None where the log does not have it.

        Raises:
            ShardError: the segment's is damaged, or another shard's.
        """
        number = shard_id // SHARDS_PER_SEGMENT
        manifest = self.added.get(number, {}).get(shard_id)
        if manifest is not None:
            return manifest
        content = self.segment(number).get(shard_id)
        return None if content is None else self._parsed(content, shard_id)

    def segment(self, number: int) -> Segment:
        """A segment, read once by whoever is first; whole, or empty."""
        with self._lock:
            if number in self._read:
                self._read.move_to_end(number)
            else:
                self._read[number] = self._load(number)
                while len(self._read) > _HELD:
                    self._read.popitem(last=False)
            return self._read[number]

    def whole(self, number: int) -> list[Manifest]:
        """All of a segment, in order; none where it is not there, or damaged."""
        try:
            return [self._parsed(content, n) for n, content in self.segment(number).items()]
        except ShardError:
            return []

    def add(self, manifest: Manifest) -> None:
        """Take a manifest that was committed now; writes the segment whose last it is."""
        number = manifest.shard_id // SHARDS_PER_SEGMENT
        added = self.added.setdefault(number, {})
        added[manifest.shard_id] = manifest
        if len(added) == SHARDS_PER_SEGMENT:
            self.write(number, [added[shard_id] for shard_id in segment_shards(number)])

    def write(self, number: int, manifests: Iterable[Manifest]) -> None:
        """Write a segment, over a damaged one."""
        held = {manifest.shard_id: manifest.content for manifest in manifests}
        assert list(held) == [*segment_shards(number)]
        table = pa.table([pa.array(held, pa.int32()), pa.array(held.values())], schema=_SCHEMA)
        content = table_bytes(table)
        self.store.replace(self.path(number), content)
        self.digests[self.path(number)] = sha256_of_bytes(content)
        self.added.pop(number, None)
        if self.there is not None:
            self.there.add(number)
        with self._lock:
            self._read.pop(number, None)

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove segments: a shard of each is made again, whose manifest was lost."""
        gone = set(numbers)
        self.store.delete_all([self.path(number) for number in gone])
        self.there = None if self.there is None else self.there - gone
        self.digests.clear()
        with self._lock:
            self._read.clear()

    def _load(self, number: int) -> Segment:
        if self.there is not None and number not in self.there:
            return {}
        try:
            content = self.store.read_bytes(self.path(number))
            table = read_parquet(io.BytesIO(content))
            held = dict(zip(*(table[name].to_pylist() for name in _SCHEMA.names), strict=True))
        except (FileNotFoundError, pa.ArrowException, KeyError):
            return {}
        if list(held) != [*segment_shards(number)]:
            return {}
        self.digests[self.path(number)] = sha256_of_bytes(content)
        return held

    def _parsed(self, content: bytes, shard_id: int) -> Manifest:
        where = self.store.place(self.path_of(shard_id))
        asked = (self.step, self.fingerprint, shard_id)
        return manifest_of(content, asked, where=where)
