"""A cache's shards by format; to add one, write its file and add its line to the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

from pydantic import AfterValidator

from sd_core.cache.parquet import ParquetShardWriter, iterate_parquet
from sd_core.cache.parquet_reading import ParquetShardReader
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import CacheFormat, ShardWriter
from sd_core.cache.sorting import SortingWriter
from sd_core.cache.spec import CacheSpec, CacheSpecError
from sd_core.cache.tar_reading import TarShardReader
from sd_core.cache.webdataset import WebDatasetShardWriter, iterate_webdataset
from sd_core.tables import NameIn

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
    """A writer in the spec's format; leaving it as a context manager finishes the file.

    Of many sizes samples may come in any order, and lie bucket by bucket.
    """
    form = format_of(spec)
    if not spec.buckets:
        return form.open_writer(path, spec)
    return SortingWriter(path, spec, form, parts=CACHE_FORMATS["webdataset"])


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
