"""Open a run's `latents` folder: its spec, its empty caption and its shards, all present."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from sd_core.cache.formats import format_of
from sd_core.cache.samples import (
    CacheFolderError,
    CacheShardError,
    EmptyCaption,
    read_empty_caption,
)
from sd_core.cache.spec import (
    CacheIdentity,
    CacheMismatchError,
    CacheSpec,
    CacheSpecError,
    check_identity,
    read_digests,
    read_spec,
)
from sd_core.redact import redact_url
from sd_core.sealed import sha256_of_bytes

_INDEX_COLUMNS = ("path", "sha256", "num_bytes", "num_rows")


@dataclass(frozen=True, kw_only=True)
class CacheShard:
    """One shard of a cache.

    Args:
        path: Where its file is, as the cache's file system names it.
        num_rows: Its samples, as its index says.
        num_bytes: The file's size.
        sha256: The file's hash, 64 hex digits.
        bucket_rows: Its samples by bucket, in this order; all in one of a cache of one size.
    """

    path: str
    num_rows: int
    num_bytes: int
    sha256: str
    bucket_rows: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LatentCache:
    """A cache whose files are all there, with the sizes its index says.

    Args:
        path: Its folder, any fsspec URL.
        spec: What it holds.
        empty_caption: The encoded empty caption.
        shards: Those with at least one row, in the index's order.
        storage_options: Passed to fsspec; may hold secrets, so it is never printed.
        has_digests: Whether its own files were held against theirs; one made before has none.
    """

    path: str
    spec: CacheSpec
    empty_caption: EmptyCaption = field(repr=False)
    shards: tuple[CacheShard, ...] = field(repr=False)
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    has_digests: bool = False

    @property
    def name(self) -> str:
        """Its path as errors show it, without secrets."""
        return redact_url(self.path)

    def name_of(self, shard: CacheShard) -> str:
        """A shard's path as errors show it."""
        return f"{self.name.rstrip('/')}/{shard.path.rpartition('/')[2]}"

    @property
    def num_rows(self) -> int:
        """Samples over all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The file system that holds the shards."""
        return fsspec.core.url_to_fs(self.path, **self.storage_options)[0]

    @property
    def is_local(self) -> bool:
        """Whether the shards are files of this machine."""
        return isinstance(self.filesystem, LocalFileSystem)


def open_cache(
    path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> LatentCache:
    """Open a run's `latents` folder, and check that every file it names is there.

    Its own files are held against their digests, its two lists of shards against each other.

    Args:
        path: The folder with spec.json, empty_caption.safetensors, index.parquet and the shards,
            or a run with it as its `latents`; any fsspec URL.
        storage_options: Passed to fsspec.

    Raises:
        CacheSpecError: the folder, or one of its own files, is missing or damaged.
        CacheShardError: a shard is missing or has another size, or there are no rows.
    """
    options = dict(storage_options or {})
    root, folder = _find(os.fspath(path), options)
    content = folder.read("spec.json")
    spec = read_spec(content, where=f"{folder.name}/spec.json")
    folder.digests = read_digests(content, where=f"{folder.name}/spec.json")
    format_of(spec, where=f"{folder.name}/spec.json")  # or refuse it
    try:
        empty_caption = read_empty_caption(folder.read("empty_caption.safetensors"), spec)
    except CacheShardError as error:
        raise CacheSpecError(f"{folder.name}: {error}") from error
    shards = _read_index(folder, spec)
    folder.check(shards)
    return LatentCache(
        path=root,
        spec=spec,
        empty_caption=empty_caption,
        shards=shards,
        storage_options=options,
        has_digests=bool(folder.digests),
    )


def check_caches(
    caches: Sequence[LatentCache], *, model_identity: CacheIdentity | Mapping[str, Any] | None
) -> None:
    """Check that the caches can be mixed, and that a model can learn from them.

    Args:
        caches: At least one.
        model_identity: The model's, or what is known of it (`check_identity`); None to compare the
            caches with each other alone.

    Raises:
        CacheMismatchError: naming every field that differs, with both values.
    """
    first = caches[0]
    faults: list[str] = []
    for cache in caches:
        expected, name = (
            (first.spec.identity, first.name)
            if model_identity is None
            else (model_identity, "the model")
        )
        try:
            check_identity(cache.spec.identity, expected, a_name=cache.name, b_name=name)
        except CacheMismatchError as error:
            faults.append(str(error))
        if _sizes(cache.spec) != _sizes(first.spec):
            faults.append(
                f"{cache.name} and {first.name} cannot be mixed:\n"
                f"  - resolution_px: {_sizes(cache.spec)} in {cache.name}, "
                f"{_sizes(first.spec)} in {first.name}"
            )
    if faults:
        raise CacheMismatchError("\n".join(faults))


def _sizes(spec: CacheSpec) -> str:
    """What must be alike; caches of buckets mix whatever these are: no batch holds two sizes."""
    return "several (buckets)" if spec.buckets else str(spec.resolution_px)


def _find(path: str, options: dict[str, Any]) -> "tuple[str, _Folder]":
    """The folder that holds a cache's own files: the one named, that of the run named, or that of
    the run whose `latents` was named."""
    root = path.rstrip("/")
    own = f"{root.removesuffix('/latents')}/_work/latents"
    for candidate in (root, own, f"{root}/latents"):
        try:
            folder = _Folder(candidate, options)
        except CacheSpecError as error:
            if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise
            continue
        if folder.has_spec:
            return candidate, folder
    return root, _Folder(root, options)


class _Folder:
    """The cache's folder: one listing, and its small files."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.name = redact_url(path).rstrip("/")
        try:
            self._filesystem, root = fsspec.core.url_to_fs(path, **options)
            self._root = root.rstrip("/")
            # Another process may have written since fsspec last listed it.
            self._filesystem.invalidate_cache()
            listing = self._filesystem.ls(self._root, detail=True)
        except Exception as error:  # each file system has kinds of its own
            raise CacheSpecError(
                f"{self.name}: no cache can be read there ({type(error).__name__}); give the "
                "`latents` folder of a run whose encode step is complete"
            ) from error
        self.digests: Mapping[str, str] = {}
        self._sizes = {
            entry["name"].rstrip("/").rpartition("/")[2]: entry["size"]
            for entry in listing
            if entry["type"] == "file"
        }
        self.has_spec = "spec.json" in self._sizes

    def path_of(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes:
        try:
            if name not in self._sizes:
                raise FileNotFoundError(name)
            content: bytes = self._filesystem.cat_file(self.path_of(name))
        except Exception as error:  # each file system has kinds of its own
            raise CacheSpecError(
                f"{self.name}/{name}: missing or unreadable ({type(error).__name__}); give a run "
                "whose encode step is complete"
            ) from error
        if name in self.digests and sha256_of_bytes(content) != self.digests[name]:
            raise CacheSpecError(
                f"{self.name}/{name}: damaged, its sha256 is not that in spec.json; copy the cache "
                "again, or run the encode step again"
            )
        return content

    def listed(self) -> list[str] | None:
        """The names of the shards in `shards.txt`, where there is one."""
        if "shards.txt" not in {**self._sizes, **self.digests}:
            return None
        lines = self.read("shards.txt").decode(errors="replace").splitlines()
        return [line.rpartition("/")[2] for line in lines]

    def check(self, shards: Sequence[CacheShard]) -> None:
        """Every shard's file is there with its size; raises `CacheShardError`."""
        for shard in shards:
            name = shard.path.rpartition("/")[2]
            if name not in self._sizes:
                raise CacheFolderError(
                    f"{self.name}/{name}: the index names this shard and it is missing; copy the "
                    "cache again, or run the encode step again"
                )
            if self._sizes[name] != shard.num_bytes:
                raise CacheFolderError(
                    f"{self.name}/{name}: {self._sizes[name]} bytes, the index says "
                    f"{shard.num_bytes}; copy the cache again, or run the encode step again"
                )


def _shard_of(row: dict[str, Any], path: str) -> CacheShard:
    by_bucket = tuple(row.pop("bucket_rows", None) or (row["num_rows"],))
    return CacheShard(**{**row, "path": path, "bucket_rows": by_bucket})


def _read_index(folder: _Folder, spec: CacheSpec) -> tuple[CacheShard, ...]:
    where = f"{folder.name}/index.parquet"
    content = folder.read("index.parquet")
    try:
        # Not `pq.read_table`, whose threads may abort a process at its end (apache/arrow 50482).
        index = pq.ParquetFile(
            pa.BufferReader(content), page_checksum_verification=True, pre_buffer=False
        )
        further = ["bucket_rows"] if spec.buckets and index.metadata.num_rows else []
        if missing := {*_INDEX_COLUMNS, *further} - set(index.schema_arrow.names):
            raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
        table = index.read(columns=[*_INDEX_COLUMNS, *further], use_threads=False)
        names = [path.rpartition("/")[2] for path in table["path"].to_pylist()]
        shards = tuple(
            _shard_of(row, folder.path_of(name))
            for row, name in zip(table.to_pylist(), names, strict=True)
            if row["num_rows"] != 0
        )
    except (pa.ArrowException, OSError, TypeError, AttributeError) as error:
        raise CacheSpecError(f"{where}: not a cache's index: {error}") from error
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice or folder.listed() not in (None, names):
        found = f"{twice[0]} twice" if twice else "other shards than shards.txt"
        raise CacheSpecError(f"{where}: lists {found}; run the encode step again")
    for shard in shards:
        if not isinstance(shard.num_rows, int) or shard.num_rows < 0:
            raise CacheSpecError(f"{where}: {shard.path} has {shard.num_rows!r} rows")
        counts = [rows for rows in shard.bucket_rows if isinstance(rows, int) and rows >= 0]
        if len(counts) != len(spec.sizes) or sum(counts) != shard.num_rows:
            found = f"{shard.num_rows} rows, {shard.bucket_rows} by bucket"
            raise CacheSpecError(f"{where}: {shard.path} has {found}")
    if not shards:
        raise CacheFolderError(f"{folder.name}: the cache holds no rows; nothing to train on")
    return shards
