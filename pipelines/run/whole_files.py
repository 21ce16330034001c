"""Whole files on a local disk: a reader sees all of one, or nothing."""

import ctypes
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".tmp-"
"""How the name of a file that is being written begins."""
NO_HARD_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NOT_KNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def can_link(one: Path, other: Path) -> bool:
    """Whether a new file can be had under another name; makes both."""
    one.touch()
    try:
        os.link(one, other)
    except OSError as error:
        if error.errno not in (*NO_HARD_LINKS, errno.EXDEV):
            raise
        return False
    return True


def link_whole(target: str, content: bytes) -> None:
    """Create a file with all of its content at once; raises FileExistsError."""
    with temporary_beside(target) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
        publish_once(temporary, target)


def publish_once(temporary: Path, target: str) -> None:
    """Give a finished file its name; raises `FileExistsError` where there is such a file.

    By a hard link, and where the file system has none by a rename that replaces nothing. Where it
    has neither, another process may come between the look and the rename, and then the last wins;
    what is there is whole all the same.
    """
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _rename_once(temporary, target)


def _rename_once(temporary: Path, target: str) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        names = (os.fsencode(temporary), os.fsencode(target))
        if not libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE):
            return
        if (number := ctypes.get_errno()) not in _NOT_KNOWN:
            raise OSError(number, os.strerror(number), target)
    if os.path.exists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    os.rename(temporary, target)


@contextmanager
def temporary_beside(target: str) -> Iterator[Path]:
    """A name in the folder of `target`, which is made; what is left of it at the end goes."""
    folder = Path(target).parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def copy(source: str | Path, path: Path) -> None:
    """Copy a file onto the disk."""
    shutil.copyfile(source, path)
    sync(path)


def sync(path: Path) -> None:
    """Have a file be on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
