"""The files of a source: listing, format by name, opening, and what tells a changed file."""

import hashlib
import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, cast
from urllib.parse import unquote, urlsplit

import fsspec
import pyarrow as pa

from pipelines.sources.config import (
    Format,
    SourceConfig,
    SourceError,
    UnreachableSourceError,
)
from sd_core.errors import is_environment
from sd_core.redact import redact_url

Compression = Literal["gzip", "bz2", "zstd"]

CHUNK_BYTES = 4 << 20
_COMPRESSIONS: dict[str, Compression] = {
    ".gz": "gzip",
    ".tgz": "gzip",
    ".bz2": "bz2",
    ".zst": "zstd",
    ".zstd": "zstd",
}
_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
    ".tar": "webdataset",
    ".tgz": "webdataset",
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
    format: Format
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


def list_files(config: SourceConfig) -> list[SourceFile]:
    """The source's files, sorted by name.

    Raises:
        SourceError: nothing is there, or a file's format cannot be told from its name.
    """
    shown = redact_url(config.path)
    try:
        filesystem, path = fsspec.core.url_to_fs(config.path, **config.storage_options)
        root, names = _find(filesystem, path)
        names = _current(filesystem, root, names)
    except (OSError, ImportError, ValueError) as error:
        kind = UnreachableSourceError if is_environment(error) else SourceError
        raise kind(f"source.path {shown}: cannot be listed: {error}") from None
    if not names:
        raise SourceError(f"source.path {shown}: no file found; give a file, a glob or a folder")
    formats = _choose_formats(names, config.format, shown)
    whole = len(names) == 1 and root == ""
    return [
        SourceFile(
            name=_display_name(name) if whole else name,
            path=path if whole else f"{root}{name}",
            uri=shown if whole else redact_url(filesystem.unstrip_protocol(f"{root}{name}")),
            format=kind,
            compression=_compression_of(name),
            filesystem=filesystem,
        )
        for name, kind in sorted(formats.items())
    ]


def _choose_formats(names: list[str], asked: str, shown: str) -> dict[str, Format]:
    """Each file that is part of the source, with its format."""
    if asked == "auto":
        _refuse_tfrecords(names, shown)
    if asked == "img2dataset" or (asked == "auto" and _is_img2dataset(names)):
        return {name: "img2dataset" for name in names if name.endswith(".parquet")}
    told = {name: kind for name in names if (kind := _format_of(name)) is not None}
    if asked != "auto":
        alike = [name for name, kind in told.items() if kind == asked]
        return dict.fromkeys(alike or names, cast(Format, asked))
    kinds = sorted(set(told.values()))
    if len(kinds) == 1:
        return told
    if kinds:
        raise SourceError(
            f"source.path {shown}: holds files of several formats ({', '.join(kinds)}); "
            "set source.format, or give a glob of those that are meant"
        )
    raise SourceError(
        f"source.path {shown}: the format of {', '.join(names[:3])} cannot be told from its name; "
        f"allowed are {', '.join(_FORMATS)} (.gz, .bz2, .zst after them), or set source.format"
    )


def _find(filesystem: fsspec.AbstractFileSystem, path: str) -> tuple[str, list[str]]:
    """The folder's prefix and the file names under it; for a single file, "" and its path."""
    if _is_glob(path) and not filesystem.exists(path):
        fixed = path[: min(path.index(sign) for sign in "*?[" if sign in path)]
        root = fixed.rpartition("/")[0] + "/" if "/" in fixed else ""
        found = filesystem.glob(path, detail=True)
    elif filesystem.isdir(path):
        root = path.rstrip("/") + "/"
        found = filesystem.find(path, detail=True)
    else:
        return "", [path] if filesystem.exists(path) else []
    names = [
        name.removeprefix(root) for name, entry in found.items() if entry.get("type") == "file"
    ]
    return root, sorted(name for name in names if not _is_hidden(name))


def _current(filesystem: fsspec.AbstractFileSystem, root: str, names: list[str]) -> list[str]:
    """Of a folder of a run, the files of its current revision, by its `shards.txt`.

    Others lie beside them: the index, and files that a later revision replaced.
    """
    if not {"shards.txt", "index.parquet"} <= set(names):
        return names
    listed = filesystem.cat_file(f"{root}shards.txt").decode().split()
    current = [posixpath.basename(path) for path in listed]
    missing = sorted(set(current) - set(names))
    if missing:
        raise ValueError(f"its shards.txt lists {missing[0]}, which is not there")
    return sorted(current)


def _is_glob(path: str) -> bool:
    return any(sign in urlsplit(path).path for sign in "*[") or ("?" in path and "://" not in path)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _is_img2dataset(names: list[str]) -> bool:
    """A folder of `00000.parquet` beside `00000.tar` or, with the pictures in it, `00000/`."""
    found, folders = set(names), {posixpath.dirname(name) for name in names}
    stems = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
    return bool(stems) and all(f"{stem}.tar" in found or stem in folders for stem in stems)


def _refuse_tfrecords(names: list[str], shown: str) -> None:
    records = [name for name in names if name.endswith(".tfrecord")]
    if any(f"{name.removesuffix('.tfrecord')}.parquet" in names for name in records):
        raise SourceError(
            f"source.path {shown}: img2dataset wrote it in its tfrecord layout, which is not read; "
            "set source.format to parquet to fetch the URLs again"
        )


def _display_name(path: str) -> str:
    return posixpath.basename(path.split("?", 1)[0] if "://" in path else path) or "source"


def _suffixes(name: str) -> list[str]:
    base = posixpath.basename(name.split("?", 1)[0] if "://" in name else name).lower()
    return [f".{part}" for part in base.split(".")[1:]]


def _compression_of(name: str) -> Compression | None:
    suffixes = _suffixes(name)
    return _COMPRESSIONS.get(suffixes[-1]) if suffixes else None


def _format_of(name: str) -> Format | None:
    suffixes = _suffixes(name)
    if suffixes and suffixes[-1] in _COMPRESSIONS and suffixes[-1] != ".tgz":
        suffixes = suffixes[:-1]
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _skip(stream: IO[bytes], num_bytes: int) -> None:
    while num_bytes > 0:
        skipped = stream.read(min(num_bytes, CHUNK_BYTES))
        if not skipped:
            return
        num_bytes -= len(skipped)
