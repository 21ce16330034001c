"""Read any row of a latent shard, in any order, without reading what lies before it."""

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sd_core.cache.latent_cache import CacheShard, LatentCache
from sd_core.cache.parquet_reading import ParquetShardReader
from sd_core.cache.samples import CacheShardError, LatentSample
from sd_core.cache.tar_reading import TarShardReader

_COPY_BYTES = 4 << 20
_EXPONENTS = {
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(np.float32): (np.uint32, 0x7F800000),
}


class ShardReader(Protocol):
    """An open shard; each read gives arrays of its own, in the stored dtype."""

    num_rows: int

    def read(self, row: int) -> LatentSample:
        """The row, checked against the spec; raises `CacheShardError` naming shard and key."""

    def close(self) -> None: ...


def open_shard_reader(
    cache: LatentCache, shard: CacheShard, *, scratch: Path | None = None
) -> ShardReader:
    """Open a shard for random access; a remote one is copied to a file without a name first.

    Args:
        cache: Whose shard it is.
        shard: One of its shards.
        scratch: The folder of such copies, or None for the system's; nothing is left behind in
            it, even after a kill.

    Raises:
        CacheShardError: the shard is missing, damaged, or not what its index or spec says.
    """
    name = cache.name_of(shard)
    try:
        file = _open(cache, shard, scratch)
        if file.seek(0, 2) != shard.num_bytes:
            file.close()
            raise CacheShardError(
                f"{name}: it changed while training; it had {shard.num_bytes} bytes"
            )
    except OSError as error:
        raise CacheShardError(f"{name}: cannot be read ({type(error).__name__})") from error
    reader: ShardReader
    try:
        if cache.spec.format == "parquet":
            reader = ParquetShardReader(file, cache.spec, name=name, scratch=scratch)
        else:
            reader = TarShardReader(file, cache.spec, name=name)
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


def check_finite(sample: LatentSample, *, name: str) -> None:
    """Raise `CacheShardError` naming shard and key where a value is NaN or infinite."""
    for field, array in (
        ("latents", sample.raw_latents),
        ("prompt_embeds", sample.prompt_embeds),
    ):
        if array is not None and not _is_finite(array):
            raise CacheShardError(
                f"{name}: {sample.key}: {field} holds NaN or infinity; encode wrote none, so the "
                "file was changed or damaged: copy it again, or run the encode step again"
            )


def _is_finite(array: npt.NDArray[np.floating]) -> bool:
    # NumPy's isfinite of float16 takes ten times as long as looking at the exponents.
    kind, exponent = _EXPONENTS[array.dtype]
    return bool((array.view(kind) & kind(exponent)).max() < exponent)


def _open(cache: LatentCache, shard: CacheShard, scratch: Path | None) -> io.FileIO:
    if cache.is_local:
        return io.FileIO(shard.path)
    digest = hashlib.sha256()
    copy: io.FileIO = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115
    try:
        with cache.filesystem.open(shard.path, "rb") as stream:
            while content := stream.read(_COPY_BYTES):
                digest.update(content)
                copy.write(content)
        if digest.hexdigest() != shard.sha256:
            raise CacheShardError(
                f"{cache.name_of(shard)}: damaged, its SHA-256 is not the index's; copy the cache "
                "again, or run the encode step again"
            )
    except BaseException:
        copy.close()
        raise
    return copy
