"""Committed files as their manifest describes them: held against their digest before any use."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.manifest import FileEntry, ShardError
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet


@contextmanager
def open_checked(store: RunStore, entry: FileEntry) -> Iterator[IO[bytes]]:
    """Open a committed file, after one reading of it whole; a remote one is copied to do so.

    Raises:
        ShardError: it is missing or damaged; says which.
    """
    with ExitStack() as stack:
        if store.is_local:
            stream: Any = stack.enter_context(_found(store, entry))
        else:
            stream = stack.enter_context(tempfile.TemporaryFile())
            with _found(store, entry) as remote:
                shutil.copyfileobj(remote, stream, 4 << 20)
            stream.seek(0)
        if hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
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
            stream = stack.enter_context(store.open(entry.path))
        except FileNotFoundError as error:
            told = "missing; open the run again, or verify it"
            raise ShardError(f"{store.told(entry.path)}: {told}") from error
        yield stream


def read_checked(
    store: RunStore, entry: FileEntry, columns: Iterable[str] | None = None
) -> pa.Table:
    """Read a committed Parquet file; what it raises is `open_checked`'s.

    Args:
        columns: Of these those that are there, in the file's order; all by default.
    """
    with open_checked(store, entry) as stream:
        names = None
        if columns is not None:
            asked = set(columns)
            names = [name for name in pq.read_schema(stream).names if name in asked]
        return read_parquet(stream, columns=names)
