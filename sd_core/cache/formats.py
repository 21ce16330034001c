"""A cache's shards by format; to add one, write its file and add its line to the table."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Protocol, Self

from pydantic import AfterValidator

from sd_core.cache.parquet import ParquetShardWriter, iterate_parquet
from sd_core.cache.parquet_reading import ParquetShardReader
from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec, CacheSpecError
from sd_core.cache.tar_reading import TarShardReader
from sd_core.cache.webdataset import WebDatasetShardWriter, iterate_webdataset
from sd_core.tables import NameIn


class ShardWriter(Protocol):
    """Writes one shard to a local file; the same samples give the same bytes."""

    num_written: int

    @property
    def bucket_rows(self) -> tuple[int, ...] | None:
        """How many samples there are of each size; None where there is one size."""

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored.

        Raises:
            ValueError: of many sizes, it comes after one of a later bucket.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ShardReader(Protocol):
    """An open shard; each read gives arrays of its own, in the stored dtype."""

    num_rows: int

    @property
    def keys(self) -> Sequence[str]:
        """Every row's key, in order."""

    def read(self, row: int) -> LatentSample:
        """The row, checked against the spec; raises `CacheShardError` naming shard and key."""

    def close(self) -> None: ...


class _Iterate(Protocol):
    def __call__(
        self, stream: IO[bytes], spec: CacheSpec, *, name: str
    ) -> Iterator[LatentSample]: ...


class _OpenReader(Protocol):
    def __call__(
        self, file: io.FileIO, spec: CacheSpec, *, name: str, scratch: Path | None
    ) -> ShardReader: ...


@dataclass(frozen=True, kw_only=True)
class CacheFormat:
    """How shards of one format are written and read; all of it checks samples against the spec.

    Attributes:
        suffix: Of its files.
        open_writer: Writes a new file.
        iterate: Reads the samples of a seekable stream in order.
        open_reader: Reads any row of a local file, which it closes; `scratch` is for copies.
    """

    suffix: str
    open_writer: Callable[[Path, CacheSpec], ShardWriter]
    iterate: _Iterate
    open_reader: _OpenReader


CACHE_FORMATS: dict[str, CacheFormat] = {
    "webdataset": CacheFormat(
        suffix=".tar",
        open_writer=WebDatasetShardWriter,
        iterate=iterate_webdataset,
        open_reader=TarShardReader,
    ),
    "parquet": CacheFormat(
        suffix=".parquet",
        open_writer=ParquetShardWriter,
        iterate=iterate_parquet,
        open_reader=ParquetShardReader,
    ),
}

_KNOWN = NameIn(CACHE_FORMATS)
CacheFormatName = Annotated[str, AfterValidator(_KNOWN)]
"""Of a configuration: one of the table's names."""


def format_of(spec: CacheSpec, *, where: str = "spec.json") -> CacheFormat:
    """The format of a cache; raises `CacheSpecError` where it is none of the table."""
    if spec.format not in CACHE_FORMATS:
        raise CacheSpecError(f"{where}: format {spec.format!r}; allowed: {_KNOWN.allowed()}")
    return CACHE_FORMATS[spec.format]


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
