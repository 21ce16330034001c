"""Committed files, read whole: hash, then what is inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import pyarrow as pa

from pipelines.run.manifest import FileEntry, sha256_of
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet
from pipelines.verify.fault import Fault
from sd_core.errors import causes_of, is_environment


def raise_unreadable(error: BaseException) -> None:
    """Raise an error that says nothing of the run: a disk, a store or a right was in the way."""
    if is_environment(error) or any(isinstance(e, PermissionError) for e in causes_of(error)):
        raise error


class FileSizes:
    """Bytes of a run's files, from one listing of each folder; safe for several threads."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._folders: dict[str, dict[str, int]] = {}
        self._lock = Lock()

    def of(self, path: str) -> int | None:
        """A file's; None where it is not there."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            if folder not in self._folders:
                self._folders[folder] = self._store.list_sizes(folder)
        return self._folders[folder].get(name)


@contextmanager
def local_copy(store: RunStore, path: str) -> Iterator[Path]:
    """The file on local disk: itself where the run is local, otherwise a temporary copy."""
    if store.is_local:
        yield Path(store.absolute(path))
        return
    with spool_folder() as folder:
        copy = folder / Path(path).name
        store.fetch(path, copy)
        yield copy


def check_digest(store: RunStore, path: str, sha256: str) -> Iterator[Fault]:
    """A file is there and has the sha256 that is recorded."""
    try:
        with local_copy(store, path) as local:
            found = f"sha256 {sha256_of(local)}"
    except FileNotFoundError:
        found = "missing"
    if found != f"sha256 {sha256}":
        yield Fault(path, found, f"sha256 {sha256}")


def check_sha256(local: Path, entry: FileEntry) -> Iterator[Fault]:
    """The file's bytes are the committed ones."""
    digest = sha256_of(local)
    if digest != entry.sha256:
        yield Fault(entry.path, f"sha256 {digest}", entry.sha256)


def load_table(store: RunStore, entry: FileEntry | None, faults: list[Fault]) -> pa.Table | None:
    """A committed Parquet file, its hash and page checksums verified; None where there is none.

    A file that is missing altogether is not reported again: its size was asked before.
    """
    if entry is None:
        return None
    try:
        with local_copy(store, entry.path) as local:
            faults += check_sha256(local, entry)
            with local.open("rb") as stream:
                table = read_parquet(stream)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        raise_unreadable(error)
        faults.append(Fault(entry.path, f"cannot be read ({error})", "a whole Parquet file"))
        return None
    if table.num_rows != entry.num_rows:
        faults.append(Fault(entry.path, f"{table.num_rows} rows", f"{entry.num_rows}"))
    return table
