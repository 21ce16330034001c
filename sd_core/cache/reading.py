"""Read any row of a latent shard, in any order, without reading what lies before it."""

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sd_core.cache.formats import format_of
from sd_core.cache.latent_cache import CacheShard, LatentCache
from sd_core.cache.samples import CacheShardError, LatentSample
from sd_core.cache.shard_format import ShardReader

_COPY_BYTES = 4 << 20
_EXPONENTS = {
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(np.float32): (np.uint32, 0x7F800000),
}


def open_shard_reader(
    cache: LatentCache, shard: CacheShard, *, scratch: Path | None = None, check: bool = False
) -> ShardReader:
    """Open a shard for random access; a remote one is copied to a file without a name first.

    Args:
        cache: Whose shard it is.
        shard: One of its shards.
        scratch: The folder of such copies, or None for the system's; nothing is left behind in
            it, even after a kill.
        check: Also hash a local one, as a remote one is when it is copied.

    Raises:
        CacheShardError: the shard is missing, damaged, or not what its index or spec says.
    """
    name = cache.name_of(shard)
    file = _open(cache, shard, scratch, check=check)
    try:
        if file.seek(0, 2) != shard.num_bytes:
            raise CacheShardError(
                f"{name}: it changed after it was opened; it had {shard.num_bytes} bytes"
            )
        reader = format_of(cache.spec).open_reader(file, cache.spec, name=name, scratch=scratch)
    except BaseException:
        file.close()
        raise
    if reader.num_rows != shard.num_rows:
        reader.close()
        raise CacheShardError(
            f"{name}: {reader.num_rows} rows, the index says {shard.num_rows}; copy the cache "
            "again, or run the encode step again"
        )
    return reader


def read_finite(
    cache: LatentCache, shard_index: int, reader: ShardReader, row: int
) -> LatentSample:
    """A row of one of the cache's shards.

    Raises:
        CacheShardError: it is damaged, or a value is not finite; names shard and key.
    """
    sample = reader.read(row)
    try:
        check_finite(sample)
    except CacheShardError as error:
        raise CacheShardError(f"{cache.name_of(cache.shards[shard_index])}: {error}") from None
    return sample


def iterate_samples(cache: LatentCache) -> Iterator[LatentSample]:
    """Every row of a cache in order, as stored; errors are `open_shard_reader`'s."""
    for shard in cache.shards:
        yield from _samples(cache, shard)


def _samples(cache: LatentCache, shard: CacheShard) -> Iterator[LatentSample]:
    reader = open_shard_reader(cache, shard, check=True)
    try:
        for row in range(reader.num_rows):
            yield reader.read(row)
    finally:
        reader.close()


def check_finite(sample: LatentSample) -> None:
    """Raise `CacheShardError` naming key and field where a value is NaN or infinite."""
    for field, array in (
        ("latents", sample.raw_latents),
        ("prompt_embeds", sample.prompt_embeds),
    ):
        if array is not None and not _is_finite(array):
            raise CacheShardError(
                f"{sample.key}: {field} holds NaN or infinity; encode wrote none, so the "
                "file was changed or damaged: copy it again, or run the encode step again"
            )


def _is_finite(array: npt.NDArray[np.floating]) -> bool:
    # NumPy's isfinite of float16 takes ten times as long as looking at the exponents.
    kind, exponent = _EXPONENTS[array.dtype]
    return bool((array.view(kind) & kind(exponent)).max() < exponent)


def _open(cache: LatentCache, shard: CacheShard, scratch: Path | None, *, check: bool) -> io.FileIO:
    try:
        if cache.is_local:
            file, sha256 = io.FileIO(shard.path), shard.sha256
            if check:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            file, sha256 = _copy(cache, shard, scratch)
    except Exception as error:  # each file system has kinds of its own
        raise CacheShardError(
            f"{cache.name_of(shard)}: cannot be read ({type(error).__name__}: "
            f"{getattr(error, 'strerror', None) or 'see above'})"
        ) from error
    if sha256 != shard.sha256:
        file.close()
        raise CacheShardError(
            f"{cache.name_of(shard)}: damaged, its SHA-256 is not the index's; copy the cache "
            "again, or run the encode step again"
        )
    return file


def _copy(cache: LatentCache, shard: CacheShard, scratch: Path | None) -> tuple[io.FileIO, str]:
    """A nameless copy, and its SHA-256."""
    digest = hashlib.sha256()
    copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
    try:
        with cache.filesystem.open(shard.path, "rb") as stream:
            while content := stream.read(_COPY_BYTES):
                digest.update(content)
                copy.write(content)
        copy.flush()
        return io.FileIO(os.dup(copy.fileno()), "r"), digest.hexdigest()
    finally:
        copy.close()


def check_contents(caches: Sequence[LatentCache], *, rank: int = 0, world_size: int = 1) -> int:
    """Read every sample of this rank's share of the shards; gives how many there were.

    Cost: the reading of the whole cache once, over all ranks.

    Raises:
        CacheShardError: a file is not the one that the index names, is damaged, or holds a value
            that is not finite; names the shard, and the key where there is one.
    """
    shards = [(cache, shard) for cache in caches for shard in cache.shards]
    for cache, shard in shards[rank::world_size]:
        for sample in _samples(cache, shard):
            check_finite(sample)
    return sum(shard.num_rows for _, shard in shards[rank::world_size])
