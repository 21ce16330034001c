"""What a step committed: the one way to read it, a shard at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from pipelines.run.checked import read_checked
from pipelines.run.commit_log import (
    SHARDS_PER_SEGMENT,
    CommitLog,
    segment_of,
    segment_shards,
)
from pipelines.run.images import StoredImage, iterate_images
from pipelines.run.manifest import (
    FileEntry,
    Manifest,
    ShardError,
    manifest_path,
    manifests_folder,
    read_manifest,
    shards_of,
)
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore

_MOST_RECENT: Final = 256
OnFailure = Callable[[dict[str, Any], ShardError], None]


@dataclass(frozen=True)
class Committed:
    """The shards of one step of a run under one fingerprint.

    What it has read of the manifests it keeps: one that is there never changes. It pickles without
    that, but with what the job itself has committed of the last thousand. Every method that
    needs a shard's manifest raises `ShardError` where it is not there, is torn, or is another
    shard's.
    """

    store: RunStore
    step: str
    fingerprint: str

    def __reduce__(self) -> tuple[Any, ...]:
        added = self.log.added
        is_little = sum(map(len, added.values())) <= SHARDS_PER_SEGMENT
        return _unpickled, (self.store, self.step, self.fingerprint, added if is_little else {})

    @cached_property
    def log(self) -> CommitLog:
        """The commit log."""
        return CommitLog(self.store, self.step, self.fingerprint)

    @cached_property
    def _recent(self) -> dict[int, Manifest]:
        return {}

    @property
    def folder(self) -> str:
        """Where the manifests lie, and beside them what workers recorded."""
        return manifests_folder(self.step, self.fingerprint)

    def shards(self) -> set[int]:
        """Ids of the shards that are committed."""
        names = self.store.list_files(self.folder)
        found = (segment_of(name) for name in names)
        self.log.there = {number for number in found if number is not None}
        return shards_of(names)

    def begin(self) -> set[int]:
        """As `shards`, for the job that is to make the others: a segment of the log that has one
        of these, whose manifest was lost, goes."""
        done = self.shards()
        there = sorted(self.log.there or ())
        self.log.drop([n for n in there if not done.issuperset(segment_shards(n))])
        return done

    def find(self, shard_id: int) -> Manifest | None:
        """The shard's manifest; None where it is not committed."""
        manifest = self._recent.get(shard_id)
        if manifest is None:
            try:
                manifest = self.log.find(shard_id)
            except ShardError:
                manifest = None  # its own file says it
        if manifest is None:
            manifest = self.read(shard_id)
        if manifest is not None:
            if len(self._recent) >= _MOST_RECENT:
                self._recent.clear()
            self._recent[shard_id] = manifest
        return manifest

    def read(self, shard_id: int) -> Manifest | None:
        """As `find`, from the shard's own file."""
        return read_manifest(self.store, self.step, self.fingerprint, shard_id)

    def manifest(self, shard_id: int) -> Manifest:
        """The shard's manifest."""
        manifest = self.find(shard_id)
        if manifest is None:
            raise ShardError(f"{self.step} shard {shard_id} is not committed; run that step first")
        return manifest

    def manifests(self, num_shards: int, *, mends: bool = False) -> Iterator[Manifest]:
        """Those of shards 0 to `num_shards` - 1, in order.

        Args:
            mends: Write what the log lacks; for the job that holds the lease.
        """
        for number in range(-(-num_shards // SHARDS_PER_SEGMENT)):
            shards = segment_shards(number)
            is_whole = shards.stop <= num_shards
            if is_whole and (part := self.log.whole(number)):
                yield from part
                continue
            asked = range(shards.start, min(shards.stop, num_shards))
            found = in_order(self._there, asked, num_threads=self.store.num_threads)
            if is_whole and mends:
                part = list(found)
                self.log.write(number, part)
                found = iter(part)
            yield from found

    def _there(self, shard_id: int) -> Manifest:
        manifest = self.find(shard_id)
        if manifest is None:
            path = manifest_path(self.step, self.fingerprint, shard_id)
            raise ShardError(f"{self.store.place(path)}: missing")
        return manifest

    def file(self, shard_id: int, folder: str) -> FileEntry | None:
        """The shard's file in a folder; None where it has none, or was given up."""
        return self.manifest(shard_id).file(folder)

    def table(
        self, shard_id: int, folder: str, *, columns: Iterable[str] | None = None
    ) -> pa.Table | None:
        """The shard's table in a folder; None where it has none, or was given up.

        Args:
            columns: Of these those that are there, in the file's order; all by default.
        """
        entry = self.file(shard_id, folder)
        return None if entry is None else read_checked(self.store, entry, columns)

    def images(
        self,
        shard_id: int,
        *,
        keys: frozenset[str] | None = None,
        on_failure: OnFailure | None = None,
        rows: Sequence[dict[str, Any]] | None = None,
        num_threads: int = 1,
    ) -> Iterator[StoredImage]:
        """The shard's images in plan order, streaming; of the step that made the run's images.

        Args:
            keys: Only these are decoded; all by default.
            rows: Facts (`FACTS`) of the rows of these keys, or of all, in plan order, where they
                were read elsewhere; from the step's own facts by default.
            on_failure: Told the facts of an image that does not decode, which is then left out;
                by default its error is raised.
            num_threads: That decode, a few images ahead each.

        Raises:
            ShardError: also where the shard's tar and its facts disagree.
        """
        made = self.manifest(shard_id)
        return iterate_images(
            self.store,
            made,
            keys=keys,
            on_failure=on_failure,
            rows=rows,
            num_threads=num_threads,
        )


def _unpickled(
    store: RunStore, step: str, fingerprint: str, added: dict[int, dict[int, Manifest]]
) -> Committed:
    made = Committed(store, step, fingerprint)
    made.log.added = added
    return made
