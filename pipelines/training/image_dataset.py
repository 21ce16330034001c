"""Endless batches of curated images, in an order that no worker count changes."""

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.training.image_set import ImageFolderError, ImageReader, ImageSet
from sd_core.cache.drawing import Drawing, Draws, ShardPlace
from sd_core.training.image_batches import DrawnImage

_DECODE_THREADS = 4


class ImageDataset:
    """One rank's images; the order is `TrainingDataset`'s, with image sets for caches.

    Args:
        image_sets: At least one, all of one size.
        weights: As the others, see `Draws`.

    Raises:
        ImageFolderError: the sets are of different sizes.
        ValueError: another argument cannot be used; says which.
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
        self._sets = tuple(image_sets)
        self._draws = Draws(
            [[shard.num_rows for shard in one.shards] for one in image_sets],
            weights=weights,
            num_streams=num_streams,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def batches(
        self, *, batch_size: int, start_step: int = 0
    ) -> Generator[list[DrawnImage], None, None]:
        """This rank's images of step `start_step` and on, for ever, decoded in threads.

        Args:
            batch_size: Over all ranks; divisible by the world size.
            start_step: Steps already taken with this batch size; none of their images are read.

        Raises:
            ImageFolderError: a shard or row is damaged, naming it.
            ValueError: the batch does not divide among the ranks.
        """
        looks_ahead = [not one.store.is_local for one in self._sets]
        drawing = Drawing(self._draws, self._open, looks_ahead=looks_ahead)
        with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode") as threads:
            try:
                for rounds in self._draws.rounds(batch_size=batch_size, start_step=start_step):
                    batch: list[DrawnImage] = []
                    for indices in rounds:
                        places = drawing.places(indices)
                        pixels = threads.map(lambda place: place.reader.read(place.row), places)
                        batch += [
                            DrawnImage(
                                key=place.reader.key(place.row), pixels=found, epoch=place.epoch
                            )
                            for place, found in zip(places, pixels, strict=True)
                        ]
                    yield batch
            finally:
                drawing.close()

    def _open(self, place: ShardPlace) -> ImageReader:
        image_set = self._sets[place[0]]
        return ImageReader(image_set, image_set.shards[place[1]])


def check_image_sets(image_sets: Sequence[ImageSet]) -> None:
    """Raise `ImageFolderError` unless all are of one size."""
    first = image_sets[0]
    for other in image_sets[1:]:
        if other.resolution_px != first.resolution_px:
            raise ImageFolderError(
                f"images of {first.resolution_px} px in {first.store.root}, of "
                f"{other.resolution_px} px in {other.store.root}; an autoencoder trains on one size"
            )
