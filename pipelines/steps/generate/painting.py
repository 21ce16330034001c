"""A shard's batches through the painter: a row that one of its parts refuses is split off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.rows.failures import Failures, Isolation
from pipelines.steps.generate.batches import RowBatch, settings_of
from pipelines.steps.generate.paint import Painter
from pipelines.steps.generate.painted import DenoisedBatch, PaintedBatch, PreparedBatch
from pipelines.steps.generate.rows import ImageRow


@dataclass(frozen=True)
class _Prepared:
    """One row of a prepared batch."""

    batch: PreparedBatch
    at: int


@dataclass(frozen=True)
class _Denoised:
    """One row of a denoised batch."""

    batch: DenoisedBatch
    at: int


class Painting:
    """The three parts for one shard, each on a thread of its own.

    Args:
        painter: Of the worker.
        failures: Takes the rows that failed alone.
    """

    def __init__(self, painter: Painter, failures: Failures) -> None:
        self._preparing = Isolation[ImageRow, PreparedBatch](
            lambda rows: painter.prepare(RowBatch(settings=settings_of(rows[0]), rows=rows)),
            key_of=lambda row: row.key,
            failures=failures,
        )
        self._denoising = Isolation[_Prepared, DenoisedBatch](
            lambda places: painter.denoise(places[0].batch.part([place.at for place in places])),
            key_of=lambda place: place.batch.rows[place.at].key,
            failures=failures,
        )
        self._decoding = Isolation[_Denoised, PaintedBatch](
            lambda places: painter.decode(places[0].batch.part([place.at for place in places])),
            key_of=lambda place: place.batch.batch.rows[place.at].key,
            failures=failures,
        )

    def prepare(self, batches: Iterator[RowBatch]) -> Iterator[PreparedBatch]:
        """Texts and sources of each batch."""
        for batch in batches:
            yield from self._preparing.run(batch.rows)

    def denoise(self, batch: PreparedBatch) -> Sequence[DenoisedBatch]:
        return self._denoising.run([_Prepared(batch, at) for at in range(len(batch.rows))])

    def decode(self, batches: Sequence[DenoisedBatch]) -> Iterator[PaintedBatch]:
        for batch in batches:
            places = [_Denoised(batch, at) for at in range(len(batch.batch.rows))]
            yield from self._decoding.run(places)

    def finish(self) -> None:
        """After the last batch: raise the first error where a part let no row through."""
        for part in (self._preparing, self._denoising, self._decoding):
            part.finish()
