"""Files that appear whole, once: the first to publish one wins, on any local file system."""

import ctypes
import errno
import os
import sys
from pathlib import Path

NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has none."""
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_NOT_KNOWN = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


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
