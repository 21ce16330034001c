"""Local folders for unfinished work: what a killed process leaves, the next one removes."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sd_core.errors import EnvironmentFault
from sd_core.faults import resource_named

_PREFIX = "latent-foundry-shard-"
_LOCK = "lock"


@contextmanager
def spool_folder(parent: str | Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end; a lock on a file in it says that its process lives.

    What processes that are gone have left beside it is removed first: the next worker of any kind
    cleans up after a killed one.

    Args:
        parent: A local folder; the system's temporary one where None.
    """
    where = f"the temporary folder {parent or _temporary()} (TMPDIR)"
    remove_abandoned(parent)
    with (
        resource_named(where, writes=True),
        _made_in(parent) as folder,
        (folder / f"{_LOCK}.new").open("wb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # so that none is seen unlocked
        yield folder


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:  # none of those it knows can be written
        raise EnvironmentFault(f"{error}; make room in one, or set TMPDIR to another") from error


@contextmanager
def _made_in(parent: str | Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: str | Path | None = None) -> list[Path]:
    """Remove the spool folders of processes that are gone; returns them.

    A folder without its lock file is being made, or removed, and left alone.
    """
    removed = []
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
        except OSError:  # held by a living process, gone meanwhile, or another user's
            continue
    return removed
