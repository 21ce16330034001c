"""The training dataset: caches mixed by weight, in an order that no worker count changes."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sd_core.cache.drawing import Drawing, Draws, SamplePlace, ShardPlace
from sd_core.cache.latent_cache import LatentCache, check_caches
from sd_core.cache.reading import open_shard_reader, read_finite
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import ShardReader


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
        weights: As the others, see `Draws`.
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
        if scratch is not None and not scratch.is_dir():
            raise ValueError(f"scratch {scratch} is not a folder; make it, or leave it out")
        self._draws = Draws(
            [[shard.num_rows for shard in cache.shards] for cache in caches],
            weights=weights,
            num_streams=num_streams,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        check_caches(caches, model_identity=None)
        self.caches = tuple(caches)
        self.counts, self.num_streams = self._draws.counts, self._draws.num_streams
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
        return self._iterate(self._draws.rounds(batch_size=batch_size, start_step=start_step))

    def _iterate(self, steps: Iterator[list[range]]) -> Batches:
        looks_ahead = [not cache.is_local for cache in self.caches]
        drawing = Drawing(self._draws, self._open, looks_ahead=looks_ahead)
        try:
            for rounds in steps:
                yield [
                    self._read(index, place)
                    for indices in rounds
                    for index, place in zip(indices, drawing.places(indices), strict=True)
                ]
        finally:
            drawing.close()

    def _open(self, place: ShardPlace) -> ShardReader:
        cache = self.caches[place[0]]
        return open_shard_reader(cache, cache.shards[place[1]], scratch=self._scratch)

    def _read(self, index: int, place: SamplePlace[ShardReader]) -> DrawnSample:
        cache = self.caches[place.cache_index]
        sample = read_finite(cache, place.shard_index, place.reader, place.row)
        return DrawnSample(
            sample=sample, cache_index=place.cache_index, epoch=place.epoch, index=index
        )
