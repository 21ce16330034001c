"""Whole files on a local disk: a reader sees all of one, or nothing."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipelines.run.exclusive import publish_once

TEMPORARY: Final = ".tmp-"
"""How the name of a file that is being written begins."""


def link_whole(target: str, content: bytes) -> None:
    """Create a file with all of its content at once; raises FileExistsError."""
    with temporary_beside(target) as temporary:
        temporary.write_bytes(content)
        sync(temporary)
        publish_once(temporary, target)


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
