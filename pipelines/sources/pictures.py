"""Pictures that lie in a folder as files: which there are, and their bytes."""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import fsspec

from pipelines.rows.image_formats import ALL_IMAGE_EXTENSIONS
from sd_core.errors import EnvironmentFault, is_environment

_AT_ONCE = 16
_MAX_BYTES_AT_ONCE = 64 << 20


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of a folder; `path` is within the file system."""

    name: str
    path: str
    num_bytes: int


def is_picture(name: str) -> bool:
    """Whether a file's extension is that of a format that decode knows."""
    return name.rpartition(".")[2].lower() in ALL_IMAGE_EXTENSIONS


def list_folder(filesystem: fsspec.AbstractFileSystem, path: str) -> list[StoredFile]:
    """The files of a folder by name, without those of folders in it; none where it is not there."""
    filesystem.invalidate_cache(path)
    if not filesystem.isdir(path):
        return []
    entries = filesystem.ls(path, detail=True)
    files = [
        StoredFile(
            name=posixpath.basename(entry["name"]),
            path=entry["name"],
            num_bytes=int(entry["size"] or 0),
        )
        for entry in entries
        if entry["type"] == "file"
    ]
    return sorted(files, key=lambda file: file.name)


def read_files(
    filesystem: fsspec.AbstractFileSystem, files: Sequence[StoredFile]
) -> Iterator[bytes | None]:
    """The bytes of each in order, a few read at a time; None where one is gone or may not be read.

    Raises:
        EnvironmentFault: their folder is not there any more.
        OSError: their disk or store fails.
    """

    def read(file: StoredFile) -> bytes | None:
        try:
            content: bytes = filesystem.cat_file(file.path)
        except (FileNotFoundError, PermissionError) as error:
            if is_environment(error):
                raise
            folder = posixpath.dirname(file.path)
            if not filesystem.isdir(folder):  # no row's fault
                raise EnvironmentFault(f"{folder}: the folder of the pictures is gone") from error
            return None
        return content

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for batch in _batches(files):
            yield from pool.map(read, batch)


def _batches(files: Sequence[StoredFile]) -> Iterator[list[StoredFile]]:
    batch: list[StoredFile] = []
    for file in files:
        held = sum(each.num_bytes for each in batch)
        if batch and (len(batch) == _AT_ONCE or held + file.num_bytes > _MAX_BYTES_AT_ONCE):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch
