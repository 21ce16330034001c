"""Files that a list names by path: read from one folder, and nowhere outside of it."""

import os
import re
import stat
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pipelines.rows.urls import clean_url
from pipelines.steps.download.failure import FetchFailed
from sd_core.errors import EnvironmentFault, is_environment

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_FILE: Final = re.compile(r"file:(//(localhost)?(?=/))?", re.IGNORECASE)


class LocalFiles:
    """What a list's `file://` URLs and paths name.

    Args:
        root: Paths in the list are seen from here, and lead nowhere else, links included.
        max_bytes: Larger files are `body_too_large`.
    """

    def __init__(self, root: str, *, max_bytes: int) -> None:
        self._root = Path(root).resolve()
        self._max_bytes = max_bytes

    def path_of(self, url: str) -> str | None:
        """The path that a list's text is; None where it is a URL of another kind."""
        text = clean_url(url)
        if found := _FILE.match(text):
            return unquote(text[found.end() :])
        return None if _SCHEME.match(text) else text

    def read(self, path: str) -> bytes:
        """The whole file.

        Raises:
            FetchFailed: `address_refused` outside the root, `file_missing`, `body_too_large`,
                `empty_body`.
            EnvironmentFault: the root itself is not there.
        OSError: the disk fails.
        """
        try:
            found = (self._root / path).resolve()
            if not found.is_relative_to(self._root):
                raise FetchFailed("address_refused", "the path leads out of source.files_root")
            with open(found, "rb", opener=_open_no_device) as stream:
                content = stream.read(self._max_bytes + 1)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
            if not self._root.is_dir():  # no row's fault
                raise EnvironmentFault(
                    f"source.files_root {self._root}: not on this machine, or no longer"
                ) from None
            raise FetchFailed("file_missing", "no such file under source.files_root") from None
        except OSError as error:
            if is_environment(error):
                raise
            raise FetchFailed("file_missing", "the file may not be read") from None
        if not content:
            raise FetchFailed("empty_body", "the file is empty")
        if len(content) > self._max_bytes:
            raise FetchFailed("body_too_large", f"more than {self._max_bytes} bytes")
        return content


def _open_no_device(path: str, flags: int) -> int:
    """A pipe or device would block, or never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor
