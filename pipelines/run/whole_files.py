"""Whole files on a local disk: a reader sees all of one, or nothing."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".tmp-"
"""How the name of a file that is being written begins."""
NO_HARD_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def link_whole(target: str, content: bytes) -> None:
    """Create a file with all of its content at once; raises FileExistsError."""
    with temporary_beside(target) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            with open(target, "xb") as stream:  # a file system without hard links
                stream.write(content)


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
