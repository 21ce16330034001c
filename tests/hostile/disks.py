"""Disks of a given size, in a mount namespace of the job's own; the machine's stay as they are."""

import ctypes
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.hostile import children

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE, _REMOUNT, _READ_ONLY = 1 << 18, 1 << 14, 1 << 5, 1
PAGE = 4096
"""Bytes of the smallest part of such a disk that a file takes."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Mounts a disk over a folder; what the job leaves on it is copied back when it has ended.

    Args:
        folder: Where; it begins with what is there.
        pages: Its size; None is as large as the memory.
        files: How many files and folders it can hold; None any number.
        read_only: Whether the job may write to it.
    """

    folder: str
    pages: int | None = None
    files: int | None = None
    read_only: bool = False

    def install(self) -> None:
        """Mount it; from here on a child of this process is the job."""
        libc = ctypes.CDLL(None, use_errno=True)
        _own_mounts(libc)
        folder, saved = Path(self.folder), Path(f"{self.folder}.saved")
        folder.mkdir(parents=True, exist_ok=True)
        copy_linked(folder, saved)
        options = [f"size={self.pages * PAGE}"] if self.pages is not None else []
        options += [f"nr_inodes={self.files}"] if self.files is not None else []
        _mount(libc, folder, 0, ",".join(options))
        copy_linked(saved, folder)
        if self.read_only:
            _mount(libc, folder, _REMOUNT | _READ_ONLY, "")
        if (job := os.fork()) == 0:
            return
        _, status = os.waitpid(job, 0)
        shutil.rmtree(saved)
        copy_linked(folder, saved)
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status))


def keep(folder: Path) -> None:
    """Put what a job left on its disk where the disk was."""
    shutil.rmtree(folder)
    Path(f"{folder}.saved").rename(folder)


def pages_of(folder: Path) -> int:
    """How many pages the files of a folder take."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    sizes = {file.st_ino: file.st_size for file in files}
    return sum(-(-size // PAGE) for size in sizes.values())


def copy_linked(source: Path, target: Path) -> Path:
    """A copy of a folder; two names of one file are two names of one file in it."""
    made: dict[int, str] = {}

    def copy(path: str, to: str) -> None:
        first = made.setdefault(os.stat(path).st_ino, to)
        if first == to:
            shutil.copy2(path, to)
        else:
            os.link(first, to)

    return Path(shutil.copytree(source, target, copy_function=copy, dirs_exist_ok=True))


@cache
def can_mount(folder: Path) -> bool:
    """Whether this user may mount a disk in a namespace of its own."""
    disk = Disk(folder=str(folder / "disk"), pages=4)
    return children.run("curate", ["--help"], folder=folder, fault=disk).code == 0


def _own_mounts(libc: ctypes.CDLL) -> None:
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS) != 0:
        _check(libc.unshare(_NEW_MOUNTS | _NEW_USER))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _check(libc.mount(b"none", b"/", None, _PRIVATE | _RECURSIVE, None))


def _mount(libc: ctypes.CDLL, folder: Path, flags: int, options: str) -> None:
    _check(libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode()))


def _check(status: int) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
