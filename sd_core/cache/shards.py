"""Write and read latent shards, one sample at a time, in the spec's format."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from sd_core.cache.formats import ShardWriter, format_of
from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec


def open_shard_writer(path: Path, spec: CacheSpec) -> ShardWriter:
    """A writer in the spec's format; leaving it as a context manager finishes the file."""
    return format_of(spec).open_writer(path, spec)


def iterate_shard(stream: IO[bytes], spec: CacheSpec, *, name: str) -> Iterator[LatentSample]:
    """Read a shard's samples in order, in the stored dtype, checked against the spec.

    Args:
        stream: An open binary file, seekable.
        spec: The cache's spec.
        name: The shard's path, for errors.

    Raises:
        CacheShardError: the shard is damaged, or a sample is not what the spec says.
    """
    yield from format_of(spec).iterate(stream, spec, name=name)
