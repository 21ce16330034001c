"""Endless batches of curated images, in an order that no worker count changes."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.training.image_set import ImageFolderError, ImageReader, ImageSet
from sd_core.cache.order import (
    BLOCK_PICKS,
    CacheOrder,
    MixtureOrder,
    Pick,
    Piece,
    block_counts,
    count_streams,
)
from sd_core.training.image_batches import DrawnImage

_DECODE_THREADS = 4
_SPARE_READERS = 8


class ImageDataset:
    """One rank's images; the order is `TrainingDataset`'s, with image sets for caches.

    Args:
        image_sets: At least one, all of one size.
        weights: Each set's share of the samples, in any unit.
        seed: Decides the order, with nothing else.
        num_streams: Canonical streams, lowered where a set has fewer rows.
        rank: This process, from 0.
        world_size: Processes; divides the streams.

    Raises:
        ImageFolderError: the sets are of different sizes.
        ValueError: the processes do not divide the streams, or a weight is not positive.
    """

    def __init__(
        self,
        image_sets: Sequence[ImageSet],
        *,
        weights: Sequence[float],
        seed: int,
        num_streams: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_image_sets(image_sets)
        rows = [one.num_rows for one in image_sets]
        self.num_streams = count_streams(rows, num_streams=num_streams)
        if self.num_streams % world_size:
            raise ValueError(
                f"{world_size} processes do not divide {self.num_streams} streams evenly; "
                f"num_streams is {num_streams} and the smallest image set has {min(rows)} rows"
            )
        self._sets = tuple(image_sets)
        self._rank, self._world_size = rank, world_size
        self._mixture = MixtureOrder(block_counts(weights), seed=seed)
        self._orders = [
            CacheOrder(
                [shard.num_rows for shard in one.shards],
                num_streams=self.num_streams,
                seed=seed,
                cache_index=index,
            )
            for index, one in enumerate(image_sets)
        ]

    def batches(self, *, batch_size: int, start_step: int = 0) -> Iterator[list[DrawnImage]]:
        """This rank's images of step `start_step` and on, for ever.

        Args:
            batch_size: Over all ranks; divisible by the world size.
            start_step: Steps already taken with this batch size; none of their images are read.

        Raises:
            ImageFolderError: a shard or row is damaged, naming it.
        """
        if batch_size % self._world_size:
            raise ValueError(f"batch_size {batch_size} is no multiple of {self._world_size} ranks")
        drawing = _Drawing(self._sets, self._orders, self._mixture, self.num_streams)
        step = start_step
        with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode") as threads:
            try:
                while True:
                    first = step * batch_size
                    begin = first + (self._rank - first) % self._world_size
                    ours = range(begin, first + batch_size, self._world_size)
                    yield drawing.draw(ours, threads)
                    step += 1
            finally:
                drawing.close()


def check_image_sets(image_sets: Sequence[ImageSet]) -> None:
    """Raise `ImageFolderError` unless all are of one size."""
    first = image_sets[0]
    for other in image_sets[1:]:
        if other.resolution_px != first.resolution_px:
            raise ImageFolderError(
                f"images of {first.resolution_px} px in {first.store.root}, of "
                f"{other.resolution_px} px in {other.store.root}; an autoencoder trains on one size"
            )


class _Drawing:
    """One pass through the order, and the shards it has open."""

    def __init__(
        self,
        image_sets: Sequence[ImageSet],
        orders: Sequence[CacheOrder],
        mixture: MixtureOrder,
        num_streams: int,
    ) -> None:
        self._sets, self._orders, self._mixture = image_sets, orders, mixture
        self._num_streams = num_streams
        self._blocks: dict[int, tuple[int, list[Pick]]] = {}
        self._pieces: dict[tuple[int, int], Piece] = {}
        self._readers: OrderedDict[tuple[int, int], ImageReader] = OrderedDict()
        self._most_readers = num_streams * len(image_sets) + _SPARE_READERS

    def draw(self, indices: range, threads: ThreadPoolExecutor) -> list[DrawnImage]:
        """The global samples `indices`, decoded in threads."""
        places = [self._place(index) for index in indices]
        pixels = threads.map(lambda place: place[0].read(place[1]), places)
        drawn = [
            DrawnImage(key=reader.key(row), pixels=found, epoch=epoch)
            for (reader, row, epoch), found in zip(places, pixels, strict=True)
        ]
        self._close_spare()
        return drawn

    def _place(self, index: int) -> tuple[ImageReader, int, int]:
        """Reader, row and epoch of a global sample."""
        position, stream = divmod(index, self._num_streams)
        number, place = divmod(position, BLOCK_PICKS)
        held = self._blocks.get(stream)
        if held is None or held[0] != number:
            held = self._blocks[stream] = (number, self._mixture.block(stream, number))
        pick = held[1][place]
        piece = self._piece(stream, pick)
        reader = self._reader(pick.cache_index, piece.shard_index)
        return reader, int(piece.rows[pick.draw - piece.draws.start]), piece.epoch

    def _piece(self, stream: int, pick: Pick) -> Piece:
        place = stream, pick.cache_index
        held = self._pieces.get(place)
        if held is None or pick.draw not in held.draws:
            held = self._pieces[place] = self._orders[pick.cache_index].piece(stream, pick.draw)
        return held

    def _reader(self, set_index: int, shard_index: int) -> ImageReader:
        name = set_index, shard_index
        if name not in self._readers:
            image_set = self._sets[set_index]
            self._readers[name] = ImageReader(image_set, image_set.shards[shard_index])
        self._readers.move_to_end(name)
        return self._readers[name]

    def _close_spare(self) -> None:
        while len(self._readers) > self._most_readers:
            self._readers.popitem(last=False)[1].close()

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
