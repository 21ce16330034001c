"""Write and read latent shards, one sample at a time, as WebDataset tars or Parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, Self

from sd_core.cache.parquet import ParquetShardWriter, iterate_parquet
from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec
from sd_core.cache.webdataset import WebDatasetShardWriter, iterate_webdataset

SUFFIXES = {"webdataset": ".tar", "parquet": ".parquet"}


class ShardWriter(Protocol):
    """Writes one shard to a local file; the same samples give the same bytes."""

    num_written: int

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None: ...


def open_shard_writer(path: Path, spec: CacheSpec) -> ShardWriter:
    """A writer in the spec's format; leaving it as a context manager finishes the file."""
    if spec.format == "parquet":
        return ParquetShardWriter(path, spec)
    return WebDatasetShardWriter(path, spec)


def iterate_shard(stream: IO[bytes], spec: CacheSpec, *, name: str) -> Iterator[LatentSample]:
    """Read a shard's samples in order, in the stored dtype, checked against the spec.

    Args:
        stream: An open binary file; Parquet needs it seekable.
        spec: The cache's spec.
        name: The shard's path, for errors.

    Raises:
        CacheShardError: the shard is damaged, or a sample is not what the spec says.
    """
    read = iterate_parquet if spec.format == "parquet" else iterate_webdataset
    yield from read(stream, spec, name=name)
