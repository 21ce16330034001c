"""The order of training samples: a function of the seed and one number, whatever the workers.

Global sample i belongs to canonical stream i % C. In each stream, blocks of 1,000 picks hold every
cache's share exactly; in each epoch of a cache its shards are permuted, each shard's rows too, and
the rows cut into C equal consecutive ranges, one a stream. Nothing is drawn from a running
generator: any sample's place is computed from (seed, i), so a run resumes anywhere.

The N % C rows at an epoch's end belong to no stream; another epoch leaves out others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BLOCK_PICKS = 1_000

# What a generator is for, so that no two draw the same numbers.
_FOR_BLOCK, _FOR_SHARDS, _FOR_ROWS = 1, 2, 3


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A stream's next sample is the cache's `draw`-th in this stream, counted from 0 for ever."""

    cache_index: int
    draw: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stream's rows of one shard in one epoch, in order.

    Args:
        epoch: The cache's epoch, from 0.
        draws: The stream's draws of this cache that `rows` are.
        shard_index: Which of the cache's shards.
        rows: (n,) row numbers in the shard.
    """

    epoch: int
    draws: range
    shard_index: int
    rows: npt.NDArray[np.int64]


def count_streams(num_rows: Sequence[int], *, num_streams: int) -> int:
    """C: `num_streams`, or the largest power of two that the smallest cache still fills."""
    smallest = min(num_rows)
    return num_streams if smallest >= num_streams else 1 << (smallest.bit_length() - 1)


def block_counts(weights: Sequence[float]) -> tuple[int, ...]:
    """Each cache's picks in a block of 1,000, by largest remainder.

    Raises:
        ValueError: a weight is not positive, or its share is less than one pick in a block.
    """
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ValueError(f"weights {list(weights)}: each must be a positive number")
    shares = [weight / sum(weights) * BLOCK_PICKS for weight in weights]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: (counts[k] - shares[k], k))
    for k in by_remainder[: BLOCK_PICKS - sum(counts)]:
        counts[k] += 1
    if min(counts) == 0:
        raise ValueError(
            f"weights {list(weights)}: one is under 1/{BLOCK_PICKS} of their sum and would never "
            "be drawn; raise it, or leave its cache out"
        )
    return tuple(counts)


class MixtureOrder:
    """Which cache each of a stream's samples comes from.

    Args:
        counts: Each cache's picks in a block, from `block_counts`.
        seed: At least 0.
    """

    def __init__(self, counts: Sequence[int], *, seed: int) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        self._seed = seed

    def block(self, stream: int, block: int) -> list[Pick]:
        """The stream's picks number 1,000 * block and on."""
        picks = np.repeat(np.arange(len(self._counts)), self._counts)
        picks = picks[permutation(BLOCK_PICKS, self._seed, _FOR_BLOCK, stream, block)]
        draws = np.empty(BLOCK_PICKS, np.int64)
        for k, count in enumerate(self._counts):
            draws[picks == k] = block * count + np.arange(count)
        return [
            Pick(cache_index=k, draw=draw)
            for k, draw in zip(picks.tolist(), draws.tolist(), strict=True)
        ]


class CacheOrder:
    """Which rows of one cache each stream draws.

    Args:
        num_rows: Of each shard.
        num_streams: C; at most the sum of `num_rows`.
        seed: At least 0.
        cache_index: The cache's place in the mixture.
    """

    def __init__(
        self, num_rows: Sequence[int], *, num_streams: int, seed: int, cache_index: int
    ) -> None:
        self._num_rows = np.asarray(num_rows, dtype=np.int64)
        self._rows_per_stream = int(self._num_rows.sum()) // num_streams
        self._seed = (seed, cache_index)
        self._layout = lru_cache(maxsize=8)(self._lay_out)

    def piece(self, stream: int, draw: int) -> Piece:
        """The piece that holds the stream's `draw`-th row of this cache."""
        epoch, position = divmod(draw, self._rows_per_stream)
        begin = stream * self._rows_per_stream
        order, ends = self._layout(epoch)
        slot = int(np.searchsorted(ends, begin + position, side="right"))
        shard_index = int(order[slot])
        num_rows = int(self._num_rows[shard_index])
        start = int(ends[slot]) - num_rows
        first = max(begin, start)
        last = min(begin + self._rows_per_stream, start + num_rows)
        start_draw = epoch * self._rows_per_stream + first - begin
        seed, cache_index = self._seed
        rows = permutation(num_rows, seed, _FOR_ROWS, cache_index, epoch, shard_index)
        return Piece(
            epoch=epoch,
            draws=range(start_draw, start_draw + last - first),
            shard_index=shard_index,
            rows=rows[first - start : last - start],
        )

    def _lay_out(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The epoch's shards in order, and where each one ends in the row of all rows."""
        seed, cache_index = self._seed
        order = permutation(len(self._num_rows), seed, _FOR_SHARDS, cache_index, epoch)
        return order, np.cumsum(self._num_rows[order])


def permutation(count: int, seed: int, *place: int) -> npt.NDArray[np.int64]:
    # Raw draws of PCG64 are the same in every NumPy; Generator.permutation need not be.
    generator = np.random.PCG64(np.random.SeedSequence([seed, *place]))
    return np.argsort(generator.random_raw(count), kind="stable")
