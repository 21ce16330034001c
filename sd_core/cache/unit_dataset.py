"""The training dataset of caches of many sizes: units of one bucket, in an order of the seed's."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_core.batch_size import say_here
from sd_core.cache.drawing import OpenShards, ShardPlace
from sd_core.cache.held_rows import HeldRows, RowPlace
from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.cache.order import block_counts, count_streams
from sd_core.cache.reading import open_shard_reader, read_finite
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import ShardReader
from sd_core.cache.unit_mixture import UnitMixture
from sd_core.cache.units import BucketUnits, Carried, Unit


@dataclass(frozen=True, kw_only=True)
class DrawnUnit:
    """Rows of one size, which make one batch.

    Args:
        samples: m of them, all of one shape.
        num_rows: How many count; those behind them fill it up, with weight 0.
        cache_index: Which of the dataset's caches they are from.
        epoch: How many times all rows of that cache were drawn before.
        index: The global unit number j, from 0.
    """

    samples: Sequence[LatentSample]
    num_rows: int
    cache_index: int
    epoch: int
    index: int


Steps = Generator[list[DrawnUnit], None, None]
"""Endless; closing it closes its files."""


class UnitDataset:
    """Endless units of one rank; the same units in the same order for any world size.

    Args:
        caches: At least one, of one identity, each of several sizes.
        weights: Each cache's share of the units, in any unit; exact in every 1,000 of a stream.
        rows_per_unit: m.
        num_streams: C, lowered where a cache has fewer rows.
        seed: Decides the order, with nothing else.
        scratch: Where remote shards are copied, and rows that are read before their turn are kept
            (a few per stream and bucket; of a remote cache also an epoch's tail), or None for the
            system's temporary folder.

    Raises:
        CacheMismatchError: the caches do not belong together.
        ValueError: another argument cannot be used; says which.
    """

    def __init__(
        self,
        caches: Sequence[LatentCache],
        *,
        weights: Sequence[float],
        rows_per_unit: int,
        seed: int,
        num_streams: int = 64,
        rank: int = 0,
        world_size: int = 1,
        scratch: Path | None = None,
    ) -> None:
        if not caches or len(caches) != len(weights):
            raise ValueError(f"{len(caches)} caches, {len(weights)} weights; give one weight each")
        if seed < 0 or num_streams < 1 or rows_per_unit < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"seed {seed}, num_streams {num_streams}, rows_per_unit {rows_per_unit}, rank "
                f"{rank} of {world_size}: the seed is at least 0, num_streams and rows_per_unit at "
                "least 1, the rank under world_size"
            )
        check_caches(caches, model_identity=None)
        self.caches = tuple(caches)
        self.num_streams = count_streams([c.num_rows for c in caches], num_streams=num_streams)
        if self.num_streams % world_size:
            raise ValueError(
                f"{world_size} processes do not divide {self.num_streams} streams evenly; "
                f"num_streams is {num_streams} and the smallest cache has "
                f"{min(cache.num_rows for cache in caches)} rows"
            )
        self._m, self._scratch = rows_per_unit, scratch
        self._rank, self._world_size = rank, world_size
        self._mixture = UnitMixture(block_counts(weights), num_streams=self.num_streams, seed=seed)
        self._orders = [
            BucketUnits(
                [shard.bucket_rows for shard in cache.shards],
                rows_per_unit=rows_per_unit,
                num_lanes=self.num_streams,
                seed=seed,
                cache_index=number,
            )
            for number, cache in enumerate(self.caches)
        ]

    def steps(self, *, units_per_step: int, start_step: int = 0) -> Steps:
        """This rank's units of step `start_step` and on, for ever.

        Args:
            units_per_step: Over all ranks; divisible by the world size.
            start_step: Steps already taken with as many units; few of their rows are read.

        Raises:
            CacheShardError: a shard or row is damaged, naming shard and key.
            ValueError: the units do not divide among the ranks.
        """
        if units_per_step < 1 or units_per_step % self._world_size or start_step < 0:
            raise ValueError(
                f"units_per_step {units_per_step} from step {start_step}: it must be a multiple "
                f"of the {self._world_size} processes, the step at least 0"
            )
        return self._steps(units_per_step, start_step)

    def count_rows(self, step: int, *, units_per_step: int) -> int:
        """How many rows count in a step, over all ranks; none is read."""
        first = step * units_per_step
        return sum(map(self._rows_of, range(first, first + units_per_step)))

    def _rows_of(self, index: int) -> int:
        cache_index, draw = self._mixture.pick(index)
        order = self._orders[cache_index]
        epoch, number = divmod(draw, order.units_per_epoch)
        if number < order.num_main(epoch):
            return self._m
        return order.tail(epoch)[number - order.num_main(epoch)].num_rows

    def _steps(self, units_per_step: int, step: int) -> Steps:
        reading = _Reading(self.caches, self._orders, self.num_streams, self._scratch)
        try:
            while True:
                first = step * units_per_step
                begin = first + (self._rank - first) % self._world_size
                ours = range(begin, first + units_per_step, self._world_size)
                yield [reading.unit(index, *self._mixture.pick(index)) for index in ours]
                step += 1
        finally:
            reading.close()


class _Reading:
    """One pass through the order: where each stream is in its lanes, and the open shards."""

    def __init__(
        self,
        caches: Sequence[LatentCache],
        orders: Sequence[BucketUnits],
        num_streams: int,
        scratch: Path | None,
    ) -> None:
        self._caches, self._orders, self._num_streams = caches, orders, num_streams
        self._scratch = scratch
        self._shards = OpenShards(self._open)
        self._walks: dict[tuple[int, int], _Walk] = {}
        self._tails: dict[int, tuple[int, set[RowPlace]]] = {}
        self.held = HeldRows(scratch)

    def unit(self, index: int, cache_index: int, draw: int) -> DrawnUnit:
        """A cache's `draw`-th unit over all streams."""
        order, stream = self._orders[cache_index], draw % self._num_streams
        epoch, number = divmod(draw, order.units_per_epoch)
        if number < order.num_main(epoch):
            walk = self._walk(cache_index, stream, epoch, number)
            unit, read = walk.next(), walk.read
        else:
            self._keep_tail(cache_index, epoch)
            unit, read = order.tail(epoch)[number - order.num_main(epoch)], self._read_once
        places = [
            (cache_index, shard, row)
            for shard, row in zip(unit.shards.tolist(), unit.rows.tolist(), strict=True)
        ]
        samples = {
            place: self.held.take(place) if place in self.held else read(place)
            for place in dict.fromkeys(places)
        }
        return DrawnUnit(
            samples=[samples[place] for place in places],
            num_rows=unit.num_rows,
            cache_index=cache_index,
            epoch=epoch,
            index=index,
        )

    def read(self, place: RowPlace) -> LatentSample:
        """A row of a shard that somebody holds."""
        cache_index, shard_index, row = place
        reader = self._shards.reader((cache_index, shard_index))
        return read_finite(self._caches[cache_index], shard_index, reader, row)

    def hold(self, place: ShardPlace) -> None:
        """Open a shard, or keep it open."""
        self._shards.acquire(place)

    def let_go(self, place: ShardPlace) -> None:
        """It may be closed."""
        self._shards.release(place)

    def close(self) -> None:
        self._shards.close()
        self.held.close()

    def _walk(self, cache_index: int, stream: int, epoch: int, number: int) -> "_Walk":
        """The stream's walk along its lane, at that unit."""
        lane, start = number % self._num_streams, number // self._num_streams
        walk = self._walks.get((cache_index, stream))
        if walk is None or walk.place != (epoch, lane, start):
            if walk is not None:
                walk.close()
            events = self._orders[cache_index].lane(epoch, lane, start=start)
            walk = _Walk(self, cache_index, events, place=(epoch, lane, start))
            self._walks[cache_index, stream] = walk
        return walk

    def _keep_tail(self, cache_index: int, epoch: int) -> None:
        """Read the tail of a remote cache shard by shard: a unit's rows lie in as many shards as it
        has rows, and each of these would be copied anew."""
        kept = self._tails.get(cache_index, (-1, set[RowPlace]()))
        if self._caches[cache_index].is_local or kept[0] == epoch:
            return
        self.held.drop(kept[1])
        places = {
            (cache_index, shard, row)
            for unit in self._orders[cache_index].tail(epoch)
            for shard, row in zip(unit.shards.tolist(), unit.rows.tolist(), strict=True)
        }
        say_here(
            f"{self._caches[cache_index].name}: {len(places):,} rows that filled no unit of epoch "
            f"{epoch} are fetched before their turn"
        )
        for place in sorted(places):
            if place not in self.held:
                self.held.put(place, self._read_once(place))
        self._tails[cache_index] = epoch, places

    def _read_once(self, place: RowPlace) -> LatentSample:
        self.hold(place[:2])
        try:
            return self.read(place)
        finally:
            self.let_go(place[:2])

    def _open(self, place: ShardPlace) -> ShardReader:
        cache = self._caches[place[0]]
        return open_shard_reader(cache, cache.shards[place[1]], scratch=self._scratch)


class _Walk:
    """A lane's units in order: one shard is open at a time, and the rows that wait are held."""

    def __init__(
        self,
        reading: _Reading,
        cache_index: int,
        events: Iterator[Unit | Carried],
        *,
        place: tuple[int, int, int],
    ) -> None:
        self._reading, self._cache_index, self._events = reading, cache_index, events
        self.place = place
        self._shard: ShardPlace | None = None
        self._carried = set[RowPlace]()

    def next(self) -> Unit:
        """The unit at `place`, which moves on; the rows that it waited for are held."""
        epoch, lane, number = self.place
        self.place = epoch, lane, number + 1
        for event in self._events:
            if isinstance(event, Unit):
                return event
            for row in event.rows.tolist():
                place = self._cache_index, event.shard_index, row
                self._reading.held.put(place, self.read(place))
                self._carried.add(place)
        raise RuntimeError(f"lane {lane} of epoch {epoch} has no unit {number}")

    def read(self, place: RowPlace) -> LatentSample:
        """A row of the shard where the walk is."""
        shard = place[:2]
        if self._shard != shard:
            self._reading.hold(shard)
            self._leave()
            self._shard = shard
        return self._reading.read(place)

    def close(self) -> None:
        """End here: what no main unit took is the tail's, which reads it again."""
        self._leave()
        self._reading.held.drop(self._carried)

    def _leave(self) -> None:
        if self._shard is not None:
            self._reading.let_go(self._shard)
            self._shard = None
