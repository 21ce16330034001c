"""The shards that streams are in, each open once; remote ones are opened ahead of need."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sd_core.cache.formats import ShardReader
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.reading import open_shard_reader

_THREADS = 4
_IDLE_SHARDS = 8

ShardPlace = tuple[int, int]
"""Which cache, and which of its shards."""


class OpenShards:
    """Counts each shard's users; the few that lost their last one latest stay open.

    Args:
        caches: Whose shards they are.
        scratch: Where remote ones are copied, or None for the system's temporary folder.
    """

    def __init__(self, caches: Sequence[LatentCache], *, scratch: Path | None) -> None:
        self._caches, self._scratch = caches, scratch
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="open-shard")
        self._readers: dict[ShardPlace, Future[ShardReader]] = {}
        self._users: dict[ShardPlace, int] = {}
        self._idle: OrderedDict[ShardPlace, None] = OrderedDict()

    def acquire(self, place: ShardPlace) -> None:
        """Begin to open the shard, if it is not open; every call needs its `release`."""
        if place not in self._readers:
            cache = self._caches[place[0]]
            self._readers[place] = self._pool.submit(
                open_shard_reader, cache, cache.shards[place[1]], scratch=self._scratch
            )
        self._users[place] = self._users.get(place, 0) + 1
        self._idle.pop(place, None)

    def reader(self, place: ShardPlace) -> ShardReader:
        """The shard, once it is open; raises `CacheShardError` where it cannot be opened."""
        return self._readers[place].result()

    def release(self, place: ShardPlace) -> None:
        """One user fewer."""
        self._users[place] -= 1
        if self._users[place] == 0:
            del self._users[place]
            self._idle[place] = None
        while len(self._idle) > _IDLE_SHARDS:
            oldest, _ = self._idle.popitem(last=False)
            _close(self._readers.pop(oldest))

    def close(self) -> None:
        """Close every shard, with or without users."""
        self._pool.shutdown(cancel_futures=True)
        for opening in self._readers.values():
            _close(opening)
        self._readers.clear()


def _close(opening: "Future[ShardReader]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
