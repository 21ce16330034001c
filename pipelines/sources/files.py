"""A file of a source: its name, how it is opened, and what tells that it has changed."""

import hashlib
import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, Protocol, cast
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from pipelines.sources.config import SourceError
from sd_core.git_lfs import POINTER_TOLD, is_pointer

Compression = Literal["gzip", "bz2", "zstd"]

CHUNK_BYTES = 4 << 20
_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
}
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_CHANGE_MARKS = ("ETag", "etag", "generation", "mtime", "LastModified", "last_modified", "updated")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the source.

    Attributes:
        name: Relative to the source's folder; stands for the file in keys and in the plan.
        path: Inside the file system, without protocol; may hold secrets, never stored.
        uri: For messages and `plan.json`; redacted.
    """

    name: str
    path: str
    uri: str
    format: str
    compression: Compression | None
    filesystem: fsspec.AbstractFileSystem

    @property
    def delimiter(self) -> str:
        """Between the fields of a CSV file: a tab in `.tsv`."""
        return "\t" if ".tsv" in posixpath.basename(self.name).lower() else ","

    @property
    def partitions(self) -> dict[str, str | None]:
        """What hive folders say of every row: `lang=en/part-0.parquet`, null for their default."""
        pairs = (part.split("=", 1) for part in self.name.split("/")[:-1] if "=" in part)
        told = {unquote(name): unquote(value) for name, value in pairs if name}
        return {name: None if value == _HIVE_NULL else value for name, value in told.items()}

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The stored bytes, seekable."""
        try:
            stream = self.filesystem.open(self.path, "rb", block_size=CHUNK_BYTES)
        except FileNotFoundError:
            raise SourceError(f"{self.uri}: no such file") from None
        except (PermissionError, IsADirectoryError) as error:
            raise SourceError(f"{self.uri}: cannot be opened: {error.strerror or error}") from error
        with stream:
            yield cast("IO[bytes]", stream)

    @contextmanager
    def open_at(self, start_byte: int) -> Iterator[IO[bytes]]:
        """The decompressed bytes from `start_byte` on; a compressed file is read from its start."""
        if self.compression is None:
            with self._seek(start_byte) as stream:
                yield cast("IO[bytes]", io.BufferedReader(cast(Any, stream), CHUNK_BYTES))
            return
        with self.open() as stream:
            try:
                inflated = pa.CompressedInputStream(
                    pa.PythonFile(stream, mode="r"), self.compression
                )
                with io.BufferedReader(inflated, CHUNK_BYTES) as reader:
                    _skip(cast("IO[bytes]", reader), start_byte)
                    yield cast("IO[bytes]", reader)
            except OSError as error:
                raise SourceError(
                    f"{self.uri}: cannot be decompressed as {self.compression}: {error}; "
                    "the file is damaged or cut off: fetch it again"
                ) from error

    @contextmanager
    def _seek(self, start_byte: int) -> Iterator[IO[bytes]]:
        with self.open() as stream:
            try:
                stream.seek(start_byte)
                stream.read(1)
                stream.seek(start_byte)
            except ValueError:  # an HTTP server that answers no range requests
                pass
            else:
                yield stream
                return
        with self.filesystem.open(self.path, "rb", block_size=0) as stream:
            _skip(stream, start_byte)
            yield stream

    def sha256(self) -> str:
        """Hex sha256 of the stored bytes; reads the whole file."""
        digest = hashlib.sha256()
        with self.open() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                if is_pointer(chunk):
                    raise SourceError(f"{self.uri}: {POINTER_TOLD}")
                digest.update(chunk)
        return digest.hexdigest()

    def token(self) -> str:
        """A cheap mark that changes with the file (size, ETag or time); "" where there is none."""
        self.filesystem.invalidate_cache()
        entry = self.filesystem.info(self.path)
        marks = [f"{name}={entry[name]}" for name in _CHANGE_MARKS if entry.get(name)]
        if not marks:
            return ""
        text = "|".join([f"size={entry.get('size')}", *marks])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def size(self) -> int:
        """Stored bytes."""
        return int(self.filesystem.info(self.path)["size"] or 0)


class StoredPart(Protocol):
    """A stored file, or a folder of some, that tells when it has changed."""

    def token(self) -> str:
        """A cheap mark that changes with it; "" where there is none."""

    def sha256(self) -> str:
        """Hex sha256 of what is stored."""

    def size(self) -> int:
        """Stored bytes."""


def suffix_of(name: str) -> str | None:
    """What a file's name says of its format: the last suffix, compression aside (`.csv`)."""
    suffixes = _suffixes(name)
    if suffixes and suffixes[-1] in _COMPRESSIONS and suffixes[-1] != ".tgz":
        suffixes = suffixes[:-1]
    return suffixes[-1] if suffixes else None


def compression_of(name: str) -> Compression | None:
    """How the file is compressed, by its name."""
    suffixes = _suffixes(name)
    return _COMPRESSIONS.get(suffixes[-1]) if suffixes else None


def _suffixes(name: str) -> list[str]:
    base = posixpath.basename(name.split("?", 1)[0] if "://" in name else name).lower()
    return [f".{part}" for part in base.split(".")[1:]]


def _skip(stream: IO[bytes], num_bytes: int) -> None:
    while num_bytes > 0:
        skipped = stream.read(min(num_bytes, CHUNK_BYTES))
        if not skipped:
            return
        num_bytes -= len(skipped)
