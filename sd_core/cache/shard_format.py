"""What a format of a cache's shards has: a writer, a reader in order, a reader of any row."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from sd_core.cache.samples import LatentSample
from sd_core.cache.spec import CacheSpec


class ShardWriter(Protocol):
    """Writes one shard to a local file; the same samples give the same bytes."""

    num_written: int

    @property
    def bucket_rows(self) -> tuple[int, ...] | None:
        """How many samples there are of each size; None where there is one size."""

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored.

        Raises:
            CacheShardError: a shape is not what the spec says, or of many sizes it comes after one
                of a later bucket.
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
