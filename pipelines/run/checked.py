"""Committed files as their manifest describes them: held against their digest before any use."""

import hashlib
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Final

import pyarrow as pa

from pipelines.run.manifest import FileEntry, ShardError
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet

_MOST_IN_MEMORY: Final = 8 << 20


class MissingFileError(ShardError):
    """A committed file is not there."""


@contextmanager
def open_checked(store: RunStore, entry: FileEntry) -> Iterator[IO[bytes]]:
    """Open a committed file, after one reading of it whole; a remote one is copied to do so.

    Raises:
        ShardError: it is missing or damaged; says which.
    """
    with _found(store, entry) as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:  # type: ignore[arg-type]
            raise ShardError(
                f"{store.told(entry.path)}: damaged, its sha256 is not its manifest's; copy the "
                "run again, or verify it"
            )
        stream.seek(0)
        yield stream


@contextmanager
def _found(store: RunStore, entry: FileEntry) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(_opened(store, entry))
        except FileNotFoundError as error:
            told = "missing; open the run again, or verify it"
            raise MissingFileError(f"{store.told(entry.path)}: {told}") from error
        yield stream


@contextmanager
def _opened(store: RunStore, entry: FileEntry) -> Iterator[IO[bytes]]:
    """The file itself where it is local, else a copy, had by one request."""
    if store.is_local:
        with store.open(entry.path) as stream:
            yield stream
    elif entry.num_bytes <= _MOST_IN_MEMORY:
        yield io.BytesIO(store.read_bytes(entry.path))
    else:
        with spool_folder() as folder:
            store.fetch(entry.path, folder / "copy")
            with (folder / "copy").open("rb") as copy:
                yield copy


def read_checked(
    store: RunStore, entry: FileEntry, columns: Iterable[str] | None = None
) -> pa.Table:
    """Read a committed Parquet file; what it raises is `open_checked`'s.

    Args:
        columns: Of these those that are there, in the file's order; all by default.
    """
    with open_checked(store, entry) as stream:
        asked = None if columns is None else frozenset(columns).__contains__
        return read_parquet(stream, columns=asked)
