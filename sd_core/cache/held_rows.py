"""Samples that were read before their turn, in a nameless file: of many sizes thousands wait."""

import os
import pickle
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sd_core.cache.samples import LatentSample

RowPlace = tuple[int, int, int]
"""Which cache, which of its shards, which row there."""

_SLOT = 1 << 16


class HeldRows:
    """Rows by place; each is put once and taken once.

    Args:
        scratch: The folder of the file, or None for the system's; nothing is left behind in it.
    """

    def __init__(self, scratch: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self._rows: dict[RowPlace, tuple[int, int]] = {}
        self._free: dict[int, list[int]] = {}
        self._end = 0

    def __contains__(self, place: RowPlace) -> bool:
        return place in self._rows

    def put(self, place: RowPlace, sample: LatentSample) -> None:
        """Keep a row, if it is not kept; raises OSError where the disk is full."""
        if place in self._rows:
            return
        content = pickle.dumps(sample, protocol=5)
        slots = -(-len(content) // _SLOT)
        if self._free.get(slots):
            offset = self._free[slots].pop()
        else:
            offset, self._end = self._end, self._end + slots * _SLOT
        self._rows[place] = offset, len(content)
        view = memoryview(content)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset + len(content) - len(view))
            view = view[written:]

    def take(self, place: RowPlace) -> LatentSample:
        """The row, which is then no longer kept."""
        offset, size = self._rows[place]
        content = os.pread(self._file.fileno(), size, offset)
        self.drop([place])
        sample: LatentSample = pickle.loads(content)
        return sample

    def drop(self, places: Iterable[RowPlace]) -> None:
        """Forget rows that nobody will take."""
        for place in places:
            if (found := self._rows.pop(place, None)) is not None:
                offset, size = found
                self._free.setdefault(-(-size // _SLOT), []).append(offset)

    def close(self) -> None:
        self._file.close()
