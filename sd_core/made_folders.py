"""Folders that are made for something go again where it comes to nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """The folder is there; where the work in it fails, what was made for it and is empty goes.

    Folders that were there before, and whatever has a file in it, stay.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        below = [Path(path) for path, _, _ in os.walk(folder, topdown=False)] if missing else []
        for each in dict.fromkeys([*below, *missing]):
            with suppress(OSError):  # it is not empty, or gone
                each.rmdir()
        raise
