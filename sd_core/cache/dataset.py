"""The training dataset: caches mixed by weight, in an order that no worker count changes."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.cache.order import (
    BLOCK_PICKS,
    CacheOrder,
    MixtureOrder,
    Pick,
    Piece,
    block_counts,
    count_streams,
)
from sd_core.cache.reading import ShardReader, check_finite, open_shard_reader
from sd_core.cache.samples import LatentSample

_IDLE_SHARDS = 8


@dataclass(frozen=True, kw_only=True)
class DrawnSample:
    """A sample in its place in the order.

    Args:
        sample: As stored.
        cache_index: Which of the dataset's caches it is from.
        epoch: How many times its stream has seen all its rows of that cache.
        index: The global sample number i, from 0.
    """

    sample: LatentSample
    cache_index: int
    epoch: int
    index: int


class TrainingDataset:
    """Endless batches of one rank; the same samples in the same order for any world size.

    Args:
        caches: At least one, of one identity and latent size.
        weights: Each cache's share of the samples, in any unit; exact in every 1,000 samples of
            a canonical stream.
        seed: Decides the order, with nothing else.
        num_streams: C, canonical streams, lowered where a cache has fewer rows.
        rank: This process, from 0.
        world_size: Processes; divides C.
        scratch: Where remote shards are copied, or None for the system's temporary folder. Up to
            C / world_size shards a cache are open at a time.

    Raises:
        CacheMismatchError: the caches do not belong together.
        ValueError: another argument cannot be used; says which.
    """

    def __init__(
        self,
        caches: Sequence[LatentCache],
        *,
        weights: Sequence[float],
        seed: int,
        num_streams: int = 64,
        rank: int = 0,
        world_size: int = 1,
        scratch: Path | None = None,
    ) -> None:
        if not caches or len(caches) != len(weights):
            raise ValueError(
                f"{len(caches)} caches and {len(weights)} weights; give one weight a cache"
            )
        if seed < 0 or num_streams < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"seed {seed}, num_streams {num_streams}, rank {rank} of {world_size}: the seed is "
                "at least 0, num_streams at least 1, the rank under world_size"
            )
        check_caches(caches, model_identity=None)
        rows = [cache.num_rows for cache in caches]
        self.num_streams = count_streams(rows, num_streams=num_streams)
        if self.num_streams % world_size:
            raise ValueError(
                f"{world_size} processes do not divide {self.num_streams} streams evenly; "
                f"num_streams is {num_streams} and the smallest cache has {min(rows)} rows"
            )
        self.caches = tuple(caches)
        self.counts = block_counts(weights)
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._scratch = scratch

    def batches(self, *, batch_size: int, start_step: int = 0) -> Iterator[list[DrawnSample]]:
        """This rank's samples of step `start_step` and on, for ever.

        Args:
            batch_size: Over all ranks; divisible by the world size.
            start_step: Steps already taken with this batch size; none of their samples are read.

        Raises:
            CacheShardError: a shard or row is damaged, naming shard and key.
            ValueError: the batch does not divide among the ranks.
        """
        if batch_size < 1 or batch_size % self._world_size or start_step < 0:
            raise ValueError(
                f"batch_size {batch_size} from step {start_step}: it must be a multiple of the "
                f"{self._world_size} processes, the step at least 0"
            )
        return self._iterate(batch_size, start_step)

    def _iterate(self, batch_size: int, step: int) -> Iterator[list[DrawnSample]]:
        draw = _Drawing(self.caches, self.counts, self.num_streams, self._seed, self._scratch)
        try:
            while True:
                first = step * batch_size
                ours = range(
                    first + (self._rank - first) % self._world_size,
                    first + batch_size,
                    self._world_size,
                )
                yield [draw.sample(index) for index in ours]
                step += 1
        finally:
            draw.close()


class _Drawing:
    """One pass through the order: where each stream is, and the shards it has open."""

    def __init__(
        self,
        caches: tuple[LatentCache, ...],
        counts: tuple[int, ...],
        num_streams: int,
        seed: int,
        scratch: Path | None,
    ) -> None:
        self._num_streams = num_streams
        self._mixture = MixtureOrder(counts, seed=seed)
        self._orders = [
            CacheOrder(
                [shard.num_rows for shard in cache.shards],
                num_streams=num_streams,
                seed=seed,
                cache_index=k,
            )
            for k, cache in enumerate(caches)
        ]
        self._shards = _OpenShards(caches, scratch)
        self._blocks: dict[int, tuple[int, list[Pick]]] = {}
        self._pieces: dict[tuple[int, int], tuple[Piece, ShardReader]] = {}

    def sample(self, index: int) -> DrawnSample:
        position, stream = divmod(index, self._num_streams)
        number, place = divmod(position, BLOCK_PICKS)
        held = self._blocks.get(stream)
        if held is None or held[0] != number:
            held = self._blocks[stream] = (number, self._mixture.block(stream, number))
        pick = held[1][place]
        piece, reader = self._piece(stream, pick)
        sample = reader.read(int(piece.rows[pick.draw - piece.first_draw]))
        shard = self._shards.name(pick.cache_index, piece.shard_index)
        check_finite(sample, name=shard)
        return DrawnSample(
            sample=sample, cache_index=pick.cache_index, epoch=piece.epoch, index=index
        )

    def _piece(self, stream: int, pick: Pick) -> tuple[Piece, ShardReader]:
        place = stream, pick.cache_index
        held = self._pieces.get(place)
        if held is not None:
            piece = held[0]
            if piece.first_draw <= pick.draw < piece.first_draw + len(piece.rows):
                return held
            self._shards.release(pick.cache_index, piece.shard_index)
            del self._pieces[place]
        piece = self._orders[pick.cache_index].piece(stream, pick.draw)
        reader = self._shards.acquire(pick.cache_index, piece.shard_index)
        self._pieces[place] = piece, reader
        return piece, reader

    def close(self) -> None:
        self._pieces.clear()
        self._shards.close()


class _OpenShards:
    """Shards that streams are in, each open once, and the few that were left last."""

    def __init__(self, caches: tuple[LatentCache, ...], scratch: Path | None) -> None:
        self._caches, self._scratch = caches, scratch
        self._readers: dict[tuple[int, int], ShardReader] = {}
        self._users: dict[tuple[int, int], int] = {}
        self._idle: OrderedDict[tuple[int, int], None] = OrderedDict()

    def name(self, cache_index: int, shard_index: int) -> str:
        cache = self._caches[cache_index]
        return cache.name_of(cache.shards[shard_index])

    def acquire(self, cache_index: int, shard_index: int) -> ShardReader:
        place = cache_index, shard_index
        if place not in self._readers:
            cache = self._caches[cache_index]
            self._readers[place] = open_shard_reader(
                cache, cache.shards[shard_index], scratch=self._scratch
            )
        self._users[place] = self._users.get(place, 0) + 1
        self._idle.pop(place, None)
        return self._readers[place]

    def release(self, cache_index: int, shard_index: int) -> None:
        place = cache_index, shard_index
        self._users[place] -= 1
        if self._users[place] == 0:
            self._idle[place] = None
        while len(self._idle) > _IDLE_SHARDS:
            oldest, _ = self._idle.popitem(last=False)
            self._readers.pop(oldest).close()

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
