"""Units of one bucket: the order in which a cache of many shapes is drawn, epoch after epoch.

A unit is `rows_per_unit` rows of one bucket. In each epoch the shards are permuted and each shard's
rows too, and all rows are cut into consecutive lanes, one a stream. A lane's rows fill its buckets'
units in turn; the lanes' first K units each, K being what the shortest lane has, are the epoch's
main units, drawn lane by lane. The rows that no main unit took are the tail: by bucket over all
lanes, so that no row of a small bucket is lost. A bucket's last unit may be short; its own rows are
then repeated with weight 0. An epoch thus always has sum over buckets of ceil(rows / rows a unit)
units, and the number of units drawn is all that a resume must know.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sd_core.cache.order import permutation

Ints = npt.NDArray[np.int64]

# What a generator is for; the numbers below are `order`'s.
_FOR_SHARDS, _FOR_ROWS, _FOR_TAIL = 11, 12, 13


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """Rows of one bucket that make one batch.

    Args:
        bucket: Its number.
        shards: (m,) which of the cache's shards each row lies in.
        rows: (m,) its row there.
        num_rows: How many count; those behind them repeat the first ones, with weight 0.
    """

    bucket: int
    shards: Ints
    rows: Ints
    num_rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """Rows of a shard that a later unit takes: to be read now, before the shard is left."""

    shard_index: int
    rows: Ints


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """An epoch.

    Args:
        order: Its shards in order.
        ends: Where each of them ends in the row of all rows.
        lane_counts: (lanes, buckets) rows.
        units_per_lane: K.
    """

    order: Ints
    ends: Ints
    lane_counts: Ints
    units_per_lane: int


class BucketUnits:
    """The units of one cache.

    Args:
        bucket_rows: (shards, buckets): how many rows of each bucket a shard holds; in a shard they
            lie bucket by bucket.
        rows_per_unit: m.
        num_lanes: C, at least 1.
        seed: At least 0.
        cache_index: The cache's place in the mixture.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(
        self,
        bucket_rows: Sequence[Sequence[int]] | Ints,
        *,
        rows_per_unit: int,
        num_lanes: int,
        seed: int,
        cache_index: int = 0,
    ) -> None:
        self._counts = np.asarray(bucket_rows, dtype=np.int64)
        if self._counts.ndim != 2 or not self._counts.sum():
            raise ValueError("a cache without rows has no units")
        self._m, self._lanes = rows_per_unit, num_lanes
        self._seed = (seed, cache_index)
        self._num_rows = int(self._counts.sum())
        self._bucket_ends = self._counts.cumsum(axis=1)
        self._layout = lru_cache(maxsize=4)(self._lay_out)
        self.tail = lru_cache(maxsize=2)(self._make_tail)
        """The units of the rows that no lane's main units hold, of an epoch."""
        self.units_per_epoch = int((-(-self._counts.sum(axis=0) // self._m)).sum())

    def num_main(self, epoch: int) -> int:
        """How many of the epoch's units are its lanes'; the others are its tail."""
        return self._lanes * self._layout(epoch).units_per_lane

    def lane(self, epoch: int, lane: int, *, start: int = 0) -> Iterator[Unit | Carried]:
        """The lane's main units from number `start` on, shard by shard.

        A unit's rows lie in the shard of the place, or were named by an earlier `Carried`.
        """
        left = self._layout(epoch).units_per_lane - start
        filling = _Filling(self._counts.shape[1], rows_per_unit=self._m, skip=start)
        if left <= 0:
            return
        for shard, rows in self._pieces(epoch, lane):
            for event in filling.take(shard, rows, self._buckets(shard, rows)):
                yield event
                left -= isinstance(event, Unit)
                if not left:
                    return
            yield from filling.carried()

    def _make_tail(self, epoch: int) -> list[Unit]:
        parts = [self._rest_of_lane(epoch, lane) for lane in range(self._lanes)]
        shards, rows, buckets = (np.concatenate(column) for column in zip(*parts, strict=True))
        units = list[Unit]()
        for bucket in np.unique(buckets).tolist():
            mine = np.flatnonzero(buckets == bucket)
            for start in range(0, len(mine), self._m):
                picks = mine[start : start + self._m]
                repeated = np.resize(picks, self._m)
                units.append(
                    Unit(
                        bucket=bucket,
                        shards=shards[repeated],
                        rows=rows[repeated],
                        num_rows=len(picks),
                    )
                )
        order = permutation(len(units), self._seed[0], _FOR_TAIL, self._seed[1], epoch)
        return [units[number] for number in order.tolist()]

    def _rest_of_lane(self, epoch: int, lane: int) -> tuple[Ints, Ints, Ints]:
        """Shard, row and bucket of what the lane leaves to the tail, in the lane's order."""
        layout = self._layout(epoch)
        counts = layout.lane_counts[lane].copy()
        excess = int((counts // self._m).sum()) - layout.units_per_lane
        found = list[tuple[int, Ints, Ints]]()
        for shard, rows in self._pieces(epoch, lane, backwards=True):
            if not excess and not (counts % self._m).any():
                break
            buckets = self._buckets(shard, rows)
            is_rest = np.zeros(len(rows), bool)
            if excess:
                cut, excess = _undo_units(buckets, counts, self._m, excess)
                is_rest[cut:] = True
                buckets = buckets[:cut]
            if not excess:  # what had not filled a unit at the cut
                for bucket in np.flatnonzero(counts % self._m).tolist():
                    mine = np.flatnonzero(buckets == bucket)[-int(counts[bucket] % self._m) :]
                    is_rest[mine] = True
                    counts[bucket] -= len(mine)
            found.append((shard, rows[is_rest], self._buckets(shard, rows[is_rest])))
        found.reverse()
        return (
            np.concatenate([np.full(len(rows), shard) for shard, rows, _ in found] or [_NONE]),
            np.concatenate([rows for _, rows, _ in found] or [_NONE]),
            np.concatenate([buckets for _, _, buckets in found] or [_NONE]),
        )

    def _pieces(
        self, epoch: int, lane: int, *, backwards: bool = False
    ) -> Iterator[tuple[int, Ints]]:
        """The lane's shards in order, each with its rows there, in order."""
        layout = self._layout(epoch)
        begin, end = self._edge(lane), self._edge(lane + 1)
        slots = range(
            int(np.searchsorted(layout.ends, begin, side="right")),
            int(np.searchsorted(layout.ends, end, side="left")) + 1,
        )
        for slot in reversed(slots) if backwards else slots:
            shard = int(layout.order[slot])
            rows = self._rows(epoch, shard)
            first = int(layout.ends[slot]) - len(rows)
            piece = rows[max(begin - first, 0) : end - first]
            if len(piece):
                yield shard, piece

    def _rows(self, epoch: int, shard: int) -> Ints:
        seed, cache_index = self._seed
        count = int(self._counts[shard].sum())
        return permutation(count, seed, _FOR_ROWS, cache_index, epoch, shard)

    def _buckets(self, shard: int, rows: Ints) -> Ints:
        return np.searchsorted(self._bucket_ends[shard], rows, side="right")

    def _edge(self, lane: int) -> int:
        return lane * self._num_rows // self._lanes

    def _lay_out(self, epoch: int) -> _Layout:
        seed, cache_index = self._seed
        order = permutation(len(self._counts), seed, _FOR_SHARDS, cache_index, epoch)
        before = self._counts[order].cumsum(axis=0)
        ends = before.sum(axis=1)
        at_edges = np.zeros((self._lanes + 1, self._counts.shape[1]), np.int64)
        for lane in range(1, self._lanes):
            slot = int(np.searchsorted(ends, self._edge(lane), side="left"))
            at_edges[lane] = before[slot]
            if beyond := int(ends[slot]) - self._edge(lane):
                shard = int(order[slot])
                buckets = self._buckets(shard, self._rows(epoch, shard)[-beyond:])
                at_edges[lane] -= np.bincount(buckets, minlength=self._counts.shape[1])
        at_edges[-1] = before[-1]
        lane_counts = np.diff(at_edges, axis=0)
        units = (lane_counts // self._m).sum(axis=1)
        return _Layout(
            order=order, ends=ends, lane_counts=lane_counts, units_per_lane=int(units.min())
        )


_NONE: Ints = np.empty(0, np.int64)


class _Filling:
    """Rows as they come, in their buckets until a unit is full.

    Args:
        skip: Units that are not wanted: they are counted, not made.
    """

    def __init__(self, num_buckets: int, *, rows_per_unit: int, skip: int) -> None:
        self._m, self._skip = rows_per_unit, skip
        self._open: list[list[tuple[int, int]]] = [[] for _ in range(num_buckets)]
        self._told = set[tuple[int, int]]()

    def take(self, shard: int, rows: Ints, buckets: Ints) -> Iterator[Unit | Carried]:
        """The units that these rows complete."""
        if self._passes(shard, rows, buckets):
            return
        for row, bucket in zip(rows.tolist(), buckets.tolist(), strict=True):
            waiting = self._open[bucket]
            waiting.append((shard, row))
            if len(waiting) < self._m:
                continue
            self._open[bucket] = []
            self._told.difference_update(waiting)
            if self._skip:
                self._skip -= 1
                yield from self.carried()  # of earlier shards, whose units were skipped
                continue
            places = np.asarray(waiting, np.int64)
            yield Unit(bucket=bucket, shards=places[:, 0], rows=places[:, 1], num_rows=self._m)

    def carried(self) -> Iterator[Carried]:
        """What waits for later rows, and was not yet named; nothing while units are skipped."""
        if self._skip:
            return
        waiting = [place for rows in self._open for place in rows if place not in self._told]
        self._told.update(waiting)
        by_shard = dict[int, list[int]]()
        for shard, row in waiting:
            by_shard.setdefault(shard, []).append(row)
        for shard, rows in by_shard.items():
            yield Carried(shard_index=shard, rows=np.asarray(rows, np.int64))

    def _passes(self, shard: int, rows: Ints, buckets: Ints) -> bool:
        """Whether all units that the rows complete are skipped: then only the last rows stay."""
        if not self._skip:
            return False
        counts = np.bincount(buckets, minlength=len(self._open))
        waiting = np.asarray([len(rows) for rows in self._open])
        completed = int(((counts + waiting) // self._m).sum())
        if completed > self._skip:
            return False
        self._skip -= completed
        for bucket in np.flatnonzero(counts).tolist():
            mine = [(shard, row) for row in rows[buckets == bucket][-self._m :].tolist()]
            keep = int(waiting[bucket] + counts[bucket]) % self._m
            self._open[bucket] = (self._open[bucket] + mine)[-keep:] if keep else []
        return True


def _undo_units(buckets: Ints, counts: Ints, m: int, excess: int) -> tuple[int, int]:
    """Take rows back from the end, in `counts` too, until `excess` units are undone.

    Returns:
        How many of the rows stay, and how many units are still to be undone.
    """
    stay = len(buckets)
    while stay and excess:
        stay -= 1
        bucket = buckets[stay]
        excess -= int(counts[bucket] % m == 0)
        counts[bucket] -= 1
    return stay, excess
