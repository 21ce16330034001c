"""What a step committed: the one way to read it, a shard at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.run.checked import read_checked
from pipelines.run.images import StoredImage, iterate_images
from pipelines.run.manifest import (
    FileEntry,
    Manifest,
    ShardError,
    committed_shards,
    iterate_manifests,
    read_manifest,
)
from pipelines.run.store import RunStore

OnFailure = Callable[[dict[str, Any], ShardError], None]


@dataclass(frozen=True)
class Committed:
    """The shards of one step of a run under one fingerprint. Holds no state, so that it pickles.

    Every method that needs a shard's manifest raises `ShardError` where it is not there, is torn,
    or is another shard's.
    """

    store: RunStore
    step: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Where the manifests lie, and beside them what workers recorded."""
        return f"manifests/{self.step}/{self.fingerprint}"

    def shards(self) -> set[int]:
        """Ids of the shards that are committed."""
        return committed_shards(self.store, self.step, self.fingerprint)

    def find(self, shard_id: int) -> Manifest | None:
        """The shard's manifest; None where it is not committed."""
        return read_manifest(self.store, self.step, self.fingerprint, shard_id)

    def manifest(self, shard_id: int) -> Manifest:
        """The shard's manifest."""
        manifest = self.find(shard_id)
        if manifest is None:
            raise ShardError(f"{self.step} shard {shard_id} is not committed; run that step first")
        return manifest

    def manifests(self, num_shards: int) -> Iterator[Manifest]:
        """Those of shards 0 to `num_shards` - 1, in order."""
        return iterate_manifests(self.store, self.step, self.fingerprint, num_shards)

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
    ) -> Iterator[StoredImage]:
        """The shard's images in plan order, streaming; of the step that made the run's images.

        Args:
            keys: Only these are decoded; all by default.
            on_failure: Told the facts of an image that does not decode, which is then left out;
                by default its error is raised.

        Raises:
            ShardError: also where the shard's tar and its facts disagree.
        """
        return iterate_images(self.store, self.manifest(shard_id), keys=keys, on_failure=on_failure)
