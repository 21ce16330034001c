"""The commit: data files named by their own hash, then the manifest, last and exclusively."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.run.on_threads import in_order
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

    def __post_init__(self) -> None:
        if self.rows_in != self.kept + sum(self.dropped.values()):
            raise ShardError(
                f"{self.step} shard {self.shard_id}: {self.rows_in} rows in, but {self.kept} kept "
                f"and {sum(self.dropped.values())} dropped"
            )

    @property
    def digest(self) -> str:
        """Hex sha256 of the manifest as it is written."""
        return sha256_of_bytes(seal_tree(asdict(self)))

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


def manifest_path(step: str, fingerprint: str, shard_id: int) -> str:
    """Where a shard's manifest lies in a run."""
    return f"manifests/{step}/{fingerprint}/{shard_id:06d}.json"


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
    )
    return create_manifest(store, manifest)


def create_manifest(store: RunStore, manifest: Manifest) -> Manifest:
    """Create a manifest if its shard has none yet; returns the one that counts."""
    path = manifest_path(manifest.step, manifest.fingerprint, manifest.shard_id)
    if store.create_exclusive(path, seal_tree(asdict(manifest))):
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
    try:
        tree = unseal(content)
        tree["files"] = tuple(FileEntry(**entry) for entry in tree["files"])
        manifest = Manifest(**tree)
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(f"{store.place(path)}: not a manifest: {error}") from error
    found = (manifest.step, manifest.fingerprint, manifest.shard_id)
    if found != (step, fingerprint, shard_id):
        raise ShardError(f"{store.place(path)}: is the manifest of {found}")
    return manifest


def committed_shards(store: RunStore, step: str, fingerprint: str) -> set[int]:
    """Ids of the shards that have a manifest."""
    names = store.list_files(f"manifests/{step}/{fingerprint}")
    return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}


def sha256_of(path: Path) -> str:
    """Hex sha256 of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def iterate_manifests(
    store: RunStore, step: str, fingerprint: str, num_shards: int
) -> Iterator[Manifest]:
    """Every shard's manifest in order; raises `ShardError` at the first that is missing."""

    def read(shard_id: int) -> Manifest:
        manifest = read_manifest(store, step, fingerprint, shard_id)
        if manifest is None:
            raise ShardError(f"{store.place(manifest_path(step, fingerprint, shard_id))}: missing")
        return manifest

    return in_order(read, range(num_shards))


def _publish(store: RunStore, file: SpooledFile, shard_id: int) -> FileEntry:
    digest = sha256_of(file.path)
    path = f"{file.folder}/{shard_id:06d}-{digest[:16]}{file.path.suffix}"
    store.put_file(file.path, path)
    return FileEntry(
        path=path, sha256=digest, num_bytes=file.path.stat().st_size, num_rows=file.num_rows
    )
