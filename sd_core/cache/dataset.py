"""The training dataset: caches mixed by weight, in an order that no worker count changes."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.cache.open_shards import OpenShards
from sd_core.cache.order import (
    BLOCK_PICKS,
    CacheOrder,
    MixtureOrder,
    Pick,
    Piece,
    block_counts,
    count_streams,
)
from sd_core.cache.reading import check_finite
from sd_core.cache.samples import CacheShardError, LatentSample


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


Batches = Generator[list[DrawnSample], None, None]
"""Endless; closing it closes its files."""


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
        scratch: Where remote shards are copied, or None for the system's temporary folder. It
            holds up to 2 C / world_size shards of each remote cache at a time.

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
        if scratch is not None and not scratch.is_dir():
            raise ValueError(f"scratch {scratch} is not a folder; make it, or leave it out")
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

    def batches(self, *, batch_size: int, start_step: int = 0) -> Batches:
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

    def _iterate(self, batch_size: int, step: int) -> Batches:
        drawing = _Drawing(self.caches, self.counts, self.num_streams, self._seed, self._scratch)
        round_size = self.num_streams // self._world_size  # one sample a stream
        try:
            while True:
                first = step * batch_size
                ours = range(
                    first + (self._rank - first) % self._world_size,
                    first + batch_size,
                    self._world_size,
                )
                batch: list[DrawnSample] = []
                for start in range(0, len(ours), round_size):
                    batch += drawing.draw(ours[start : start + round_size])
                yield batch
                step += 1
        finally:
            drawing.close()


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
        self._caches, self._num_streams = caches, num_streams
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
        self._looks_ahead = [not cache.is_local for cache in caches]
        self._shards = OpenShards(caches, scratch=scratch)
        self._blocks: dict[int, tuple[int, list[Pick]]] = {}
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._next_pieces: dict[tuple[int, int], Piece] = {}

    def draw(self, indices: Sequence[int]) -> list[DrawnSample]:
        """The samples of these numbers, at most one a stream; their shards open side by side."""
        found = []
        for index in indices:
            position, stream = divmod(index, self._num_streams)
            pick = self._pick(stream, position)
            found.append((index, pick, self._piece(stream, pick)))
        return [self._read(*place) for place in found]

    def close(self) -> None:
        """Close every shard."""
        self._shards.close()

    def _pick(self, stream: int, position: int) -> Pick:
        number, place = divmod(position, BLOCK_PICKS)
        held = self._blocks.get(stream)
        if held is None or held[0] != number:
            held = self._blocks[stream] = (number, self._mixture.block(stream, number))
        return held[1][place]

    def _piece(self, stream: int, pick: Pick) -> Piece:
        """The stream's present piece of the pick's cache; its shard is open, or opening."""
        place = stream, pick.cache_index
        piece = self._pieces.get(place)
        if piece is None or pick.draw not in piece.draws:
            old, piece = piece, self._next_pieces.pop(place, None)
            if piece is None:
                piece = self._enter(place, pick.draw)
            self._pieces[place] = piece
            if old is not None:
                self._shards.release((pick.cache_index, old.shard_index))
        is_half_done = pick.draw - piece.draws.start >= len(piece.draws) // 2
        if self._looks_ahead[pick.cache_index] and is_half_done and place not in self._next_pieces:
            self._next_pieces[place] = self._enter(place, piece.draws.stop)
        return piece

    def _enter(self, place: tuple[int, int], draw: int) -> Piece:
        stream, cache_index = place
        piece = self._orders[cache_index].piece(stream, draw)
        self._shards.acquire((cache_index, piece.shard_index))
        return piece

    def _read(self, index: int, pick: Pick, piece: Piece) -> DrawnSample:
        reader = self._shards.reader((pick.cache_index, piece.shard_index))
        sample = reader.read(int(piece.rows[pick.draw - piece.draws.start]))
        try:
            check_finite(sample)
        except CacheShardError as error:
            cache = self._caches[pick.cache_index]
            name = cache.name_of(cache.shards[piece.shard_index])
            raise CacheShardError(f"{name}: {error}") from None
        return DrawnSample(
            sample=sample, cache_index=pick.cache_index, epoch=piece.epoch, index=index
        )
