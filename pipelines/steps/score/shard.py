"""One shard on its way through score: its captions, then its images, a batch at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.rows.failures import Failures, Isolation, failed_rows, made_ahead
from pipelines.rows.ledger import SCORE_FACTS
from pipelines.run.committed import Committed
from pipelines.run.images import FACTS, StoredImage, batches_of_one_size, stack_pixels
from pipelines.run.manifest import Manifest
from pipelines.run.rows_done import rows_done
from pipelines.steps.score.captions import Captions, ShardCaptions
from pipelines.steps.score.score import BatchScores, ScoreModels, score_batch
from pipelines.steps.score.scorer import ScoreBatch, as_column
from pipelines.steps.step import ShardWork
from sd_core.model.clip_text import TextLength, caption_steps
from sd_core.model.resample import CropGrid, OriginalSize
from sd_core.model.transfer import Sent, Transfers

_IDENTITY = pa.schema([SCORE_FACTS.field(name) for name in ("shard_id", "row", "key")])


@dataclass(frozen=True, kw_only=True)
class _Images:
    """Images of one size; their pixels, filled up to the batch size, and the grid that they are
    resampled on are on the way to the device."""

    images: Sequence[StoredImage]
    sent: Sent | None


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """Images with what the scorers made of them."""

    images: Sequence[StoredImage]
    scores: BatchScores


class ScoreShard(ShardWork[Captions | _Images, list[_Scored]]):
    """One shard on its way; a row that a library refuses has no scores.

    Args:
        images: The step that made the images.
        num_threads: That decode.
        publish: Commits the shard's facts and its refused rows.
    """

    def __init__(
        self,
        shard_id: int,
        *,
        images: Committed,
        models: ScoreModels,
        batch_size: int,
        text_length: TextLength,
        num_threads: int,
        publish: Callable[[pa.Table, Sequence[dict[str, Any]]], Manifest],
    ) -> None:
        super().__init__()
        self._shard_id, self._images = shard_id, images
        self._models, self._batch_size = models, batch_size
        self._publish, self._num_threads = publish, num_threads
        self._schema = models.schema()
        self._transfers = Transfers(models.device)
        self._captions: ShardCaptions | None = None
        if models.reads_captions and models.clip is not None:
            steps = caption_steps(models.clip, batch_size=batch_size, lengths=text_length)
            self._captions = ShardCaptions(models.clip, self._transfers, steps)
        self._rows: list[dict[str, Any]] = []
        self._failures: Failures = {}
        self._tables: list[pa.Table] = []
        self._whole: _Images | None = None
        self._isolation = Isolation[StoredImage, _Scored](
            self._score, key_of=lambda image: image.facts["key"], failures=self._failures
        )

    def read(self) -> Iterator[Captions | _Images]:
        """Batches of captions of one length, then of images of one size."""
        rows = None
        if self._captions is not None:
            origin = f"facts/{self._images.step}"
            facts = self._images.table(self._shard_id, origin, columns=FACTS)
            rows = [] if facts is None else facts.to_pylist()
            yield from self._captions.read([row for row in rows if row["reason"] is None])
        images = self._images.images(
            self._shard_id, on_failure=self._refuse, rows=rows, num_threads=self._num_threads
        )
        for batch in batches_of_one_size(self._noted(images), size=self._batch_size):
            yield _Images(images=batch, sent=made_ahead(self._send, batch))

    def compute(self, batch: Captions | _Images) -> list[_Scored]:
        """The scores of a batch of images; in parts where a row of it fails."""
        if isinstance(batch, Captions):
            assert self._captions is not None
            self._captions.compute(batch)
            return []
        self._whole, images = batch, batch.images
        if self._captions is not None and self._captions.failures:
            refused = self._captions.failures
            images = [image for image in images if image.facts["key"] not in refused]
        return self._isolation.run(images) if images else []

    def write(self, parts: Sequence[_Scored]) -> None:
        """Hold the scores as tables, until all rows are there."""
        for part in parts:
            table = _to_table(self._shard_id, part.images, part.scores, self._schema)
            self._tables.append(table)
            rows_done.add(table.num_rows)

    def commit(self) -> Manifest:
        """Publish the shard: all rows in order, those that were refused with null scores."""
        self._isolation.finish()
        if self._captions is not None:
            self._captions.finish()
            self._failures |= self._captions.failures
        rejects = failed_rows(self._rows, self._failures)
        schema = self._schema
        refused = pa.Table.from_pylist(list(rejects), schema=_IDENTITY)
        for column in schema:
            if column.name not in refused.column_names:
                refused = refused.append_column(column, pa.nulls(len(rejects), column.type))
        table = pa.concat_tables([*self._tables, refused.select(schema.names).cast(schema)])
        rows = np.asarray(table["row"])
        if not (np.diff(rows) > 0).all():
            table = table.take(np.argsort(rows, kind="stable"))
        return self._publish(table, rejects)

    def _noted(self, images: Iterator[StoredImage]) -> Iterator[StoredImage]:
        """The same images, each of whose rows is remembered."""
        for image in images:
            self._rows.append({**image.facts, "shard_id": self._shard_id})
            yield image

    def _refuse(self, facts: dict[str, Any], error: Exception) -> None:
        """Take a row whose stored image does not decode."""
        self._rows.append({**facts, "shard_id": self._shard_id})
        self._failures[facts["key"]] = error

    def _send(self, images: Sequence[StoredImage]) -> Sent:
        where = f"{self._images.step} shard {self._shard_id}"
        height, width, channels = images[0].pixels.shape
        pixels = self._transfers.empty(self._batch_size, height, width, channels, dtype=torch.uint8)
        stack_pixels(images, out=pixels.numpy(), where=where)
        clip, grid = self._models.clip, None
        if clip is not None and height == width:
            sizes = [_original_size(image) for image in images]
            missing = self._batch_size - len(images)
            grid = clip.grid([*sizes, *[OriginalSize(1, 1)] * missing], side=width)
        return self._transfers.send(pixels, *(() if grid is None else (grid.first, grid.weights)))

    def _score(self, images: Sequence[StoredImage]) -> _Scored:
        whole = self._whole
        ahead = whole.sent if whole is not None and whole.images is images else None
        pixels, *axes = (ahead or self._send(images)).take()
        captions = [image.facts["caption"] for image in images]
        batch = ScoreBatch(
            images=pixels.permute(0, 3, 1, 2),
            captions=[*captions, *[None] * (self._batch_size - len(images))],
            clip=self._models.clip,
            device=self._models.device,
            grid=CropGrid(axes[0], axes[1], pixels.shape[1]) if axes else None,
            texts=self._texts(images),
            detector=self._models.detector,
            num_rows=len(images),
        )
        return _Scored(images=images, scores=score_batch(self._models, batch, self._transfers))

    def _texts(self, images: Sequence[StoredImage]) -> torch.Tensor | None:
        if self._captions is None:
            return None
        keys = [image.facts["key"] for image in images]
        return self._captions.of(keys, size=self._batch_size)


def _original_size(image: StoredImage) -> OriginalSize:
    facts = image.facts
    return OriginalSize(facts["original_width"], facts["original_height"])


def _to_table(
    shard_id: int, batch: Sequence[StoredImage], made: BatchScores, schema: pa.Schema
) -> pa.Table:
    num_rows, scores = len(batch), made.take()
    known: Mapping[str, list[Any]] = {
        "shard_id": [shard_id] * num_rows,
        "row": [image.facts["row"] for image in batch],
        "key": [image.facts["key"] for image in batch],
    }
    arrays = []
    for column in schema:
        if column.name in known:
            arrays.append(pa.array(known[column.name], column.type))
        elif column.name in scores:
            arrays.append(as_column(scores[column.name], column.type, num_rows))
        else:
            arrays.append(pa.nulls(num_rows, column.type))
    return pa.Table.from_arrays(arrays, schema=schema)
