"""Which cache each unit of the whole order is of."""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd

import numpy as np

from sd_core.cache.order import BLOCK_PICKS
from sd_core.cache.units import Ints

_FOR_SHIFT = 14  # what a generator is for; `units` has the other numbers


class UnitMixture:
    """Mixes the units of caches by weight.

    In each stream every 1,000 units hold each cache's share exactly, and units that follow each
    other are spread (multiples of the golden ratio), so that every stretch nearly does.

    Args:
        counts: Each cache's units of 1,000, from `order.block_counts`.
        num_streams: C.
        seed: At least 0.
    """

    def __init__(self, counts: Sequence[int], *, num_streams: int, seed: int) -> None:
        self._ends = np.cumsum(np.asarray(counts, np.int64))
        self._counts, self._streams = tuple(counts), num_streams
        self._stride = round(BLOCK_PICKS * num_streams * (5**0.5 - 1) / 2)
        while gcd(self._stride, BLOCK_PICKS) > 1:
            self._stride += 1
        raw = np.random.PCG64(np.random.SeedSequence([seed, _FOR_SHIFT])).random_raw(1)
        self._shift = int(raw[0] % (BLOCK_PICKS * num_streams))
        self._block = lru_cache(maxsize=num_streams)(self._block_of)

    def pick(self, unit: int) -> tuple[int, int]:
        """(cache, draw): the unit is the cache's `draw`-th over all streams, C apart in each."""
        place, stream = divmod(unit, self._streams)
        block, within = divmod(place, BLOCK_PICKS)
        caches, earlier = self._block(stream)
        cache = int(caches[within])
        in_stream = block * self._counts[cache] + int(earlier[within])
        return cache, in_stream * self._streams + stream

    def _block_of(self, stream: int) -> tuple[Ints, Ints]:
        """Of the 1,000 places of every block of a stream: the cache, and its earlier places."""
        first = (stream * self._stride + self._shift) // self._streams
        places = (np.arange(BLOCK_PICKS) * (self._stride % BLOCK_PICKS) + first) % BLOCK_PICKS
        caches = np.searchsorted(self._ends, places, side="right")
        earlier = np.empty(BLOCK_PICKS, np.int64)
        for cache, count in enumerate(self._counts):
            earlier[caches == cache] = np.arange(count)
        return caches, earlier
