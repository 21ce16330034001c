"""The facts' files of a run on a store: fetched ahead, and once as far as the local disk allows."""

import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pipelines.run.checked import open_checked
from pipelines.run.manifest import FileEntry
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore

_MOST_AHEAD_BYTES: Final = 64 << 20
_SHARE_OF_DISK: Final = 10


class ReadAhead:
    """Opens committed files, on any thread: those of the next shards before they are asked for.

    Args:
        store: The run. Of a local one nothing is fetched.
        folder: A local folder, in which a tenth of the free space is taken.
    """

    def __init__(self, store: RunStore, folder: Path) -> None:
        self._store = store
        self._path = folder / "facts"
        self._left = shutil.disk_usage(folder).free // _SHARE_OF_DISK
        self._end = 0
        self._places: dict[str, tuple[int, int]] = {}
        self._held: dict[str, bytes] = {}

    def shards(
        self, shard_ids: Sequence[int], files: Callable[[int], Iterable[FileEntry]]
    ) -> Iterator[int]:
        """The shards one by one, the files of each in memory until they are released."""
        if self._store.is_local or not shard_ids:
            yield from shard_ids
            return
        first = sum(entry.num_bytes for entry in files(shard_ids[0]))
        threads = max(1, min(self._store.num_threads, _MOST_AHEAD_BYTES // max(1, 2 * first)))
        with self._path.open("a+b", buffering=0) as local:

            def fetch(shard_id: int) -> tuple[int, dict[str, bytes]]:
                found = {entry.path: self._read(entry, local) for entry in files(shard_id)}
                return shard_id, found

            for shard_id, found in in_order(fetch, shard_ids, num_threads=threads):
                self._held |= found
                self._keep(found, local)
                yield shard_id

    def release(self, entries: Iterable[FileEntry]) -> None:
        """Files that are not asked for again before their shard is."""
        for entry in entries:
            self._held.pop(entry.path, None)

    @contextmanager
    def open(self, entry: FileEntry) -> Iterator[IO[bytes]]:
        """A file as its manifest describes it; raises `ShardError`."""
        if (content := self._held.get(entry.path)) is not None:
            yield io.BytesIO(content)
            return
        with open_checked(self._store, entry) as stream:
            yield stream

    def _read(self, entry: FileEntry, local: IO[bytes]) -> bytes:
        if (place := self._places.get(entry.path)) is not None:
            return os.pread(local.fileno(), place[1], place[0])
        with open_checked(self._store, entry) as stream:
            return stream.read()

    def _keep(self, found: dict[str, bytes], local: IO[bytes]) -> None:
        for path, content in found.items():
            if path not in self._places and self._left >= len(content):
                self._left -= len(content)
                self._places[path] = (self._end, len(content))
                local.write(content)
                self._end += len(content)
