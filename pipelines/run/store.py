"""A run's folder on any fsspec URL: whole-file writes, exclusive creates, atomic replaces."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from pipelines.run.layout import WORK_FOLDER, is_at_top, is_flat
from pipelines.run.removal import remove_files, remove_folder
from pipelines.run.store_methods import fenced, named
from pipelines.run.whole_files import (
    TEMPORARY,
    can_link,
    copy,
    link_whole,
    sync,
    temporary_beside,
)
from sd_core.errors import InputError
from sd_core.faults import resource_named
from sd_core.home import expand_home
from sd_core.redact import CREDENTIALS_TOLD, names_credentials, redact_url

_LOST_RACE = ("PreconditionFailed", "At least one of the pre-conditions")


class StorageError(InputError):
    """A storage location cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class RunStore:
    """One folder on local disk or an object store; every path given to it is relative to `root`.

    Of a run, all but its records and what readers open lies in `_work/`, and a path names it
    without that: `ledger/000000-....parquet` is `_work/ledger/...`. A run of an earlier version
    has it all at its top; which it is, is seen when it is first asked.

    Args:
        root: An absolute path or an fsspec URL (`s3://bucket/run`).
        storage_options: Passed to fsspec; may hold secrets, so it is never printed or stored.
        flat: True: each path is where it says, as in a training or an export.
    """

    root: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    flat: bool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", expand_home(self.root))
        if "\0" in self.root:
            raise StorageError(f"{self.root!r}: a path holds no NUL")
        if names_credentials(self.root):
            raise StorageError(f"{self.root}: {CREDENTIALS_TOLD}")
        if "://" not in self.root and not os.path.isabs(self.root):
            raise StorageError(
                f"{self.root!r} is a relative path; give an absolute path or a URL, because a "
                "submitted job runs in its own copy of the working directory"
            )

    @cached_property
    def _target(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            filesystem, path = fsspec.core.url_to_fs(self.root, **self.storage_options)
        except (ImportError, TypeError, ValueError) as error:  # no such protocol, or option of it
            raise StorageError(f"{redact_url(self.root)}: cannot be opened: {error}") from error
        return filesystem, path.rstrip("/")

    @cached_property
    def fences(self) -> list[Callable[[], None]]:
        """The job's lease, asked before anything is overwritten or removed; no worker has it."""
        return []

    @cached_property
    def recorded(self) -> set[str]:
        """Records that are there and need not be written again."""
        return set()

    @property
    def _whole(self) -> dict[str, int]:
        """How a file is read by one request: s3fs asks for its size first, to read it in parts."""
        return {"max_concurrency": 1} if get_protocol(self.root) in ("s3", "s3a") else {}

    @property
    def num_threads(self) -> int:
        """How many operations at once it bears, and is worth."""
        return 16 if self.is_local else 64

    @cached_property
    def is_flat(self) -> bool:
        """Whether there is no `_work/`: a training, or a run of an earlier version."""
        if self.flat is not None:
            return self.flat
        return is_flat([*self.list_folders(""), *self.list_files("")])

    def at_top(self) -> "RunStore":
        """The same folder, with each path where it says."""
        store = RunStore(self.root, self.storage_options, flat=True)
        store.fences.extend(self.fences)
        return store

    def place(self, path: str) -> str:
        """Where a path lies, relative to `root`."""
        return path if is_at_top(path) or self.is_flat else f"{WORK_FOLDER}/{path}"

    def told(self, path: str) -> str:
        """A path as messages name it: with the run, without its secrets."""
        return f"{redact_url(self.root)}/{self.place(path)}"

    def other(self, root: str) -> "RunStore":
        """Another folder, opened by the same options where it lies on the same kind of store."""
        is_alike = get_protocol(root) == get_protocol(self.root)
        return RunStore(root, self.storage_options if is_alike else {})

    def __getstate__(self) -> dict[str, Any]:
        known = {"is_flat": self.is_flat} if "is_flat" in self.__dict__ else {}
        options = dict(self.storage_options)
        return {"root": self.root, "storage_options": options, "flat": self.flat, **known}

    @property
    def filesystem(self) -> fsspec.AbstractFileSystem:
        """The fsspec file system that holds the run."""
        return self._target[0]

    @property
    def is_local(self) -> bool:
        """Whether the run is on this machine's own disk (or a mounted one)."""
        return isinstance(self.filesystem, LocalFileSystem)

    def absolute(self, path: str) -> str:
        """The full path of `path` inside the file system (no protocol)."""
        return f"{self._target[1]}/{self.place(path)}"

    @named
    def exists(self, path: str) -> bool:
        """Whether a file or folder is there now, past any listing cache."""
        self.filesystem.invalidate_cache()
        return bool(self.filesystem.exists(self.absolute(path)))

    @named
    def size(self, path: str) -> int:
        """The file's size in bytes; raises FileNotFoundError."""
        return int(self.filesystem.info(self.absolute(path), refresh=True)["size"])

    def list_files(self, folder: str) -> list[str]:
        """Names of the files directly in `folder`, sorted; empty when there is no such folder."""
        return sorted(self.list_sizes(folder))

    @named
    def list_sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file directly in `folder` by name; empty when there is no such folder."""
        found = self._entries(folder, kind="file")
        return {name: size for name, size in found.items() if not name.startswith(TEMPORARY)}

    @named
    def list_folders(self, folder: str) -> list[str]:
        """Names of the folders directly in `folder`, sorted; empty when there is no such folder."""
        return sorted(self._entries(folder, kind="directory"))

    def _entries(self, folder: str, *, kind: str) -> dict[str, int]:
        self.filesystem.invalidate_cache()
        try:
            entries = self.filesystem.ls(self.absolute(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {PurePosixPath(e["name"]).name: e["size"] for e in entries if e["type"] == kind}

    def half_written(self) -> list[Path]:
        """What killed writers, or living ones, have in a local run, as full paths; an object store
        shows nothing of it."""
        root = Path(self.absolute(""))
        return sorted(root.rglob(f"{TEMPORARY}*")) if self.is_local else []

    @named
    def read_bytes(self, path: str) -> bytes:
        """The whole file; raises FileNotFoundError."""
        return cast(bytes, self.filesystem.cat_file(self.absolute(path), **self._whole))

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file for reading, seekable."""
        with (
            resource_named(self.root, writes=False),
            self.filesystem.open(self.absolute(path), "rb") as stream,
        ):
            yield stream

    @named
    def fetch(self, path: str, local: Path) -> None:
        """Copy a file of the run onto local disk."""
        self.filesystem.get_file(self.absolute(path), str(local))

    @named
    def put_file(self, local: Path, path: str) -> None:
        """Publish a finished local file whole: a reader sees all of it or nothing."""
        target = self.absolute(path)
        if not self.is_local:
            self.filesystem.put_file(str(local), target)
            return
        with temporary_beside(target) as temporary:
            copy(local, temporary)
            os.replace(temporary, target)

    @cached_property
    def has_links(self) -> bool:
        """Whether a file of the run can be had under two names."""
        if not self.is_local:
            return False
        with (
            temporary_beside(self.absolute("readers.json")) as one,
            temporary_beside(self.absolute("lists/x")) as other,
        ):
            return can_link(one, other)

    @fenced
    def show(self, path: str, shown: str) -> None:
        """Have a file also at `shown`, relative to `root`, over what is there: by a link where
        there are links, else by a copy."""
        source, target = self.absolute(path), self.at_top().absolute(shown)
        if not self.is_local:
            self.filesystem.cp_file(source, target)
            return
        with temporary_beside(target) as temporary:
            if self.has_links:
                os.link(source, temporary)
            else:
                copy(source, temporary)
            os.replace(temporary, target)

    @fenced
    def replace(self, path: str, content: bytes) -> None:
        """Write a small file atomically, over any earlier one."""
        target = self.absolute(path)
        if not self.is_local:
            self.filesystem.pipe_file(target, content)
            return
        with temporary_beside(target) as temporary:
            temporary.write_bytes(content)
            sync(temporary)
            os.replace(temporary, target)

    @named
    def create_exclusive(self, path: str, content: bytes) -> bool:
        """Create a small file if there is none; False, and no change, where there is one.

        Locally a hard link publishes the whole content at once; object stores are asked with
        `If-None-Match: *`.
        """
        target = self.absolute(path)
        try:
            if self.is_local:
                link_whole(target, content)
            else:
                self.filesystem.pipe_file(target, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if any(sign in str(error) for sign in _LOST_RACE):
                return False
            raise
        return True

    @fenced
    def delete(self, path: str) -> None:
        """Remove one file; no error where there is none."""
        with suppress(FileNotFoundError):
            self.filesystem.rm_file(self.absolute(path))

    @fenced
    def delete_all(self, paths: Sequence[str]) -> None:
        """As `delete`, of an object store a thousand by each request."""
        for path in paths if self.is_local else ():
            self.delete(path)
        full = [self.absolute(path) for path in paths] if not self.is_local else []
        remove_files(self.filesystem, full, num_threads=self.num_threads)

    @fenced
    def delete_folder(self, folder: str) -> None:
        """Remove a folder with all that is in it; no error where there is none."""
        remove_folder(self.filesystem, self.absolute(folder), num_threads=self.num_threads)
