"""A store that takes its time: each operation is counted, and waits as one over a network does."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import fsspec
from fsspec.spec import AbstractFileSystem

PROTOCOL: Final = "counted"
_PAGE: Final = 1_000


class CountedStore(AbstractFileSystem):  # type: ignore[misc]
    """Files of a local folder, as an object store has them: `counted:///a/folder`.

    A listing is an operation for each thousand of its files, a removal of many one for each
    thousand; a file that is opened is asked for its size first.

    Args:
        delay_s: Of each operation.
    """

    protocol = PROTOCOL
    root_marker = "/"

    def __init__(self, delay_s: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.counts: Counter[str] = Counter()
        self._delay_s = delay_s
        self._lock = Lock()

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """In pages."""
        path = self._strip_protocol(path)
        if not os.path.isdir(path):
            self._wait("list")
            raise FileNotFoundError(path)
        with os.scandir(path) as entries:
            found = [self._told(entry.path, entry.stat(), entry.is_dir()) for entry in entries]
        self._wait("list", max(1, -(-len(found) // _PAGE)))
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """One operation."""
        self._wait("head")
        path = self._strip_protocol(path)
        return self._told(path, os.stat(path), os.path.isdir(path))

    def cat_file(self, path: str, *args: Any, **options: Any) -> bytes:
        """One operation."""
        self._wait("get")
        with open(self._strip_protocol(path), "rb") as stream:
            return stream.read()

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        """One operation."""
        self._wait("get")
        shutil.copyfile(self._strip_protocol(rpath), lpath)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        """One operation."""
        with open(lpath, "rb") as stream:
            self.pipe_file(rpath, stream.read())

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        """One operation, also where `mode` is `create` and there is a file."""
        self._wait("put")
        path = self._strip_protocol(path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb" if mode == "create" else "wb") as stream:
            stream.write(value)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        """One operation."""
        self._wait("copy")
        path2 = self._strip_protocol(path2)
        os.makedirs(os.path.dirname(path2), exist_ok=True)
        shutil.copyfile(self._strip_protocol(path1), path2)

    def rm_file(self, path: str) -> None:
        """One operation."""
        self._wait("delete")
        os.unlink(self._strip_protocol(path))

    def rm(self, path: Sequence[str], *args: Any, **options: Any) -> None:
        """One operation for each thousand; none of them need be there."""
        self._wait("delete", -(-len(path) // _PAGE))
        for each in path:
            if os.path.exists(place := self._strip_protocol(each)):
                os.unlink(place)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        assert mode == "rb"
        self.info(path)
        self._wait("get")
        return open(self._strip_protocol(path), "rb")

    def _told(self, path: str, stat: os.stat_result, is_folder: bool) -> dict[str, Any]:
        kind = "directory" if is_folder else "file"
        return {"name": path, "size": stat.st_size, "type": kind}

    def _wait(self, name: str, operations: int = 1) -> None:
        with self._lock:
            self.counts[name] += operations
        if self._delay_s:
            time.sleep(self._delay_s * operations)


fsspec.register_implementation(PROTOCOL, CountedStore, clobber=True)
