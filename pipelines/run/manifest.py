"""The commit: data files named by their own hash, then the manifest, last and exclusively."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.run.schemas import record_schema
from pipelines.run.store import RunStore
from sd_core.errors import FoundryError, InputError
from sd_core.sealed import seal_tree, sha256_of_bytes, unseal


class ShardError(FoundryError):
    """A committed shard is missing, damaged or contradicts itself; says which and how."""


class OtherModelsError(ShardError, InputError):
    """Committed shards were made with other models, or on another device, than are given now."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One committed data file; `path` is relative to the run."""

    path: str
    sha256: str
    num_bytes: int
    num_rows: int
    bucket_rows: tuple[int, ...] | None = None
    """Of latents of many sizes: how many of its rows are of each, in the order they lie in."""

    @property
    def tree(self) -> dict[str, Any]:
        """As it is written: what has no buckets as it was before there were any."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> "FileEntry":
        """The entry that was written so; raises TypeError."""
        by_bucket = tree.get("bucket_rows")
        return cls(**{**tree, "bucket_rows": None if by_bucket is None else tuple(by_bucket)})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What became of one shard in one step: rows_in = kept + the sum of `dropped`."""

    step: str
    fingerprint: str
    shard_id: int
    files: tuple[FileEntry, ...]
    rows_in: int
    kept: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    inputs: str | None = None
    """Digest of what the shard was made from, where a later revision may reuse it."""
    quarantined: str | None = None
    """The error that made the engine give the shard up."""
    gives: Mapping[str, str] | None = None
    """What later steps are made from of its files, by name; None where they are to be read."""

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + sum(self.dropped.values()):
            raise ShardError(
                f"{self.step} shard {self.shard_id}: {self.rows_in} rows in, but {self.kept} kept "
                f"and {sum(self.dropped.values())} dropped"
            )

    @property
    def digest(self) -> str:
        """Hex sha256 of the manifest as it is written."""
        return sha256_of_bytes(self.content)

    @property
    def path(self) -> str:
        """Where the manifest lies in a run."""
        return manifest_path(self.step, self.fingerprint, self.shard_id)

    @property
    def content(self) -> bytes:
        """The manifest as it is written."""
        tree = {**vars(self), "files": [entry.tree for entry in self.files]}
        if self.gives is None:  # as it was before there was such a thing
            del tree["gives"]
        return seal_tree(tree)

    def file(self, folder: str) -> FileEntry | None:
        """The file this shard has in `folder` (`images`, `facts/download`, ...), if any."""
        for entry in self.files:
            if entry.path.rpartition("/")[0] == folder:
                return entry
        return None


@dataclass(frozen=True, kw_only=True)
class SpooledFile:
    """A finished local file, to be published in a folder of the run."""

    folder: str
    path: Path
    num_rows: int
    bucket_rows: tuple[int, ...] | None = None


def manifests_folder(step: str, fingerprint: str) -> str:
    """Where a step's manifests lie in a run."""
    return f"manifests/{step}/{fingerprint}"


def manifest_path(step: str, fingerprint: str, shard_id: int) -> str:
    """Where a shard's manifest lies in a run."""
    return f"{manifests_folder(step, fingerprint)}/{shard_id:06d}.json"


def commit_shard(
    store: RunStore,
    *,
    step: str,
    fingerprint: str,
    shard_id: int,
    files: Sequence[SpooledFile],
    rows_in: int,
    kept: int,
    dropped: Mapping[str, int],
    inputs: str | None = None,
    gives: Mapping[str, str] | None = None,
    taken: Sequence[FileEntry] = (),
) -> Manifest:
    """Publish a shard's files, then its manifest; returns the manifest that counts.

    Where another attempt committed first, its manifest is returned and these files stay
    unreferenced. The columns of tables are kept beside the manifests. `taken` are files that an
    earlier revision committed.
    """
    for file in files:
        if file.path.suffix == ".parquet":
            schema = pq.read_schema(file.path)
            record_schema(
                store, step=step, fingerprint=fingerprint, folder=file.folder, schema=schema
            )
    entries = (*taken, *(_publish(store, file, shard_id) for file in files))
    manifest = Manifest(
        step=step,
        fingerprint=fingerprint,
        shard_id=shard_id,
        files=entries,
        rows_in=rows_in,
        kept=kept,
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
        inputs=inputs,
        gives=gives,
    )
    return create_manifest(store, manifest)


def create_manifest(store: RunStore, manifest: Manifest) -> Manifest:
    """Create a manifest if its shard has none yet; returns the one that counts."""
    path = manifest.path
    if store.create_exclusive(path, manifest.content):
        return manifest
    winner = read_manifest(store, manifest.step, manifest.fingerprint, manifest.shard_id)
    if winner is None:
        raise ShardError(f"{store.place(path)}: was there when it was created and is gone now")
    return winner


def read_manifest(store: RunStore, step: str, fingerprint: str, shard_id: int) -> Manifest | None:
    """The shard's manifest, or None where it has not been committed.

    Raises:
        ShardError: the manifest is torn or damaged, or is that of another shard.
    """
    path = manifest_path(step, fingerprint, shard_id)
    try:
        content = store.read_bytes(path)
    except FileNotFoundError:
        return None
    return manifest_of(content, (step, fingerprint, shard_id), where=store.place(path))


def manifest_of(content: bytes, asked: tuple[str, str, int], *, where: str) -> Manifest:
    """The manifest of step, fingerprint and shard that stands in a file; raises `ShardError`."""
    try:
        tree = unseal(content)
        tree["files"] = tuple(FileEntry.of_tree(entry) for entry in tree["files"])
        manifest = Manifest(**tree)
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"{where}: not a manifest: {error}") from error
    found = (manifest.step, manifest.fingerprint, manifest.shard_id)
    if found != asked:
        raise ShardError(f"{where}: is the manifest of {found}")
    return manifest


def committed_shards(store: RunStore, step: str, fingerprint: str) -> set[int]:
    """Ids of the shards that have a manifest."""
    return shards_of(store.list_files(manifests_folder(step, fingerprint)))


def shards_of(names: Iterable[str]) -> set[int]:
    """Ids of the shards whose manifests have these names; others are left out."""
    return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}


def sha256_of(path: Path) -> str:
    """Hex sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _publish(store: RunStore, file: SpooledFile, shard_id: int) -> FileEntry:
    digest = sha256_of(file.path)
    path = f"{file.folder}/{shard_id:06d}-{digest[:16]}{file.path.suffix}"
    store.put_file(file.path, path)
    return FileEntry(
        path=path,
        sha256=digest,
        num_bytes=file.path.stat().st_size,
        num_rows=file.num_rows,
        bucket_rows=file.bucket_rows,
    )
