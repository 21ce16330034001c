"""Removing files of a store by exactly their names."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from pipelines.run.on_threads import do_all

_BULK: Final = 1_000


def remove_files(
    filesystem: fsspec.AbstractFileSystem, paths: Sequence[str], *, num_threads: int
) -> None:
    """Remove files of an object store, a thousand by each request; no error where one is not there.

    One by one where a name holds `*`, `?` or `[`, that of the run's folder perhaps: fsspec's `rm`
    takes such a name for a pattern, which misses the file and meets those of others.
    """

    def remove(path: str) -> None:
        with suppress(FileNotFoundError):
            filesystem.rm_file(path)

    if any(map(has_magic, paths)):
        do_all(remove, paths, num_threads=num_threads)
        return
    for at in range(0, len(paths), _BULK):
        filesystem.rm(paths[at : at + _BULK])


def remove_folder(filesystem: fsspec.AbstractFileSystem, path: str, *, num_threads: int) -> None:
    """Remove a folder with all that is in it; no error where there is none."""
    if isinstance(filesystem, LocalFileSystem):
        with suppress(FileNotFoundError):
            filesystem.rm(path, recursive=True)
        return
    remove_files(filesystem, filesystem.find(path, refresh=True), num_threads=num_threads)
