"""The score step: a shard's stored images in, one row of scores for each committed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.rows.failures import Failures, Isolation, failed_rows, spool_rejects
from pipelines.rows.ledger import ROW_FAILED, SCORE_FACTS
from pipelines.run.committed import Committed
from pipelines.run.images import StoredImage, batches_of_one_size, stack_pixels
from pipelines.run.manifest import Manifest
from pipelines.run.rows_done import rows_done
from pipelines.run.shard_inputs import score_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.left_rows import spool_table
from pipelines.steps.model_worker import ModelStep, free_models
from pipelines.steps.score.config import ScoreConfig
from pipelines.steps.score.score import ScoreModels, load_score_models, score_images, score_schema
from pipelines.steps.score.scorer import Values, as_column
from pipelines.steps.step import ShardWork
from sd_core.model.resample import OriginalSize

SCORE_REJECTS = "facts/score/rejects"
_USUAL_PX = 512
_LONG_CAPTION = "a long caption " * 40
_IDENTITY = pa.schema([SCORE_FACTS.field(name) for name in ("shard_id", "row", "key")])


@dataclass(kw_only=True, eq=False)
class ScoreStep(ModelStep):
    """Scores and commits shards; arguments beside those of `ModelStep`:

    Args:
        images: The step that made the images, `download` or `generate`.
        options_digest: `StepIdentity.options_digest`, by which later revisions reuse shards.
    """

    name = "score"

    images: Committed
    config: ScoreConfig
    options_digest: str = ""
    _models: ScoreModels | None = field(default=None, init=False)

    def open(self) -> None:
        """Load the CLIP and the scorers."""
        models = load_score_models(self.config, device=self._device())
        self._record(
            models.describe(),
            batch_size=self.config.batch_size,
            attempt=partial(_attempt, models),
        )
        self._models = models

    def close(self) -> None:
        self._models = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        return self.images.manifest(shard_id).kept

    def is_light(self, shard_id: int) -> bool:
        """Whether the shard has no image, and its columns are known without the models."""
        return self.config.tells_fields and not self.rows_in(shard_id)

    def run(self, shard_id: int) -> Manifest:
        """Take a shard to its commit; one without images needs no models."""
        if self._models is None and self.is_light(shard_id):
            return self.commit(shard_id, score_schema(self.config.columns()).empty_table(), ())
        return super().run(shard_id)

    def begin(self, shard_id: int) -> "_ScoreShard":
        """The images of a shard, on their way to scores."""
        if self._models is None:
            raise RuntimeError("open() comes before run()")
        return _ScoreShard(self, shard_id, models=self._models)

    def commit(self, shard_id: int, table: pa.Table, rejects: Sequence[dict[str, Any]]) -> Manifest:
        """Publish a shard's facts, and the rows that were refused."""
        with spool_folder() as folder:
            facts = spool_table(table.combine_chunks(), folder, "facts/score")
            refused = folder / "rejects.parquet"
            return self.commit_shard(
                shard_id,
                [facts, *spool_rejects(rejects, path=refused, folder=SCORE_REJECTS)],
                kept=table.num_rows - len(rejects),
                reasons=[ROW_FAILED] * len(rejects),
                inputs=score_inputs(self.images, options=self.options_digest, shard=shard_id),
            )


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Images of one size, and their pixels filled up to the batch size."""

    images: Sequence[StoredImage]
    pixels: torch.Tensor


class _ScoreShard(ShardWork[_Batch, list[pa.Table]]):
    """One shard on its way; a row that a library refuses has no scores."""

    def __init__(self, step: ScoreStep, shard_id: int, *, models: ScoreModels) -> None:
        super().__init__()
        self._step = step
        self._shard_id = shard_id
        self._batch_size = step.batch_size
        self._models = models
        self._schema = models.schema()
        self._rows: list[dict[str, Any]] = []
        self._failures: Failures = {}
        self._tables: list[pa.Table] = []
        self._whole: _Batch | None = None
        self._isolation = Isolation[StoredImage, pa.Table](
            self._score, key_of=lambda image: image.facts["key"], failures=self._failures
        )

    def read(self) -> Iterator[_Batch]:
        """Batches of images of one size."""
        images = self._step.images.images(self._shard_id, on_failure=self._refuse)
        for batch in batches_of_one_size(self._noted(images), size=self._batch_size):
            yield _Batch(images=batch, pixels=self._stack(batch))

    def compute(self, batch: _Batch) -> list[pa.Table]:
        """The scores of a batch; in parts where a row of it fails."""
        self._whole = batch
        return self._isolation.run(batch.images)

    def write(self, tables: Sequence[pa.Table]) -> None:
        """Hold them, until all rows are there."""
        self._tables += tables
        rows_done.add(sum(table.num_rows for table in tables))

    def commit(self) -> Manifest:
        """Publish the shard: all rows in order, those that were refused with null scores."""
        self._isolation.finish()
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
        return self._step.commit(self._shard_id, table, rejects)

    def _noted(self, images: Iterator[StoredImage]) -> Iterator[StoredImage]:
        """The same images, each of whose rows is remembered."""
        for image in images:
            self._rows.append({**image.facts, "shard_id": self._shard_id})
            yield image

    def _refuse(self, facts: dict[str, Any], error: Exception) -> None:
        """Take a row whose stored image does not decode."""
        self._rows.append({**facts, "shard_id": self._shard_id})
        self._failures[facts["key"]] = error

    def _stack(self, images: Sequence[StoredImage]) -> torch.Tensor:
        where = f"{self._step.images.step} shard {self._shard_id}"
        return torch.from_numpy(stack_pixels(images, batch_size=self._batch_size, where=where))

    def _score(self, images: Sequence[StoredImage]) -> pa.Table:
        whole = self._whole
        if whole is not None and whole.images is images:
            pixels = whole.pixels
        else:  # a part of a batch, found row by row
            pixels = self._stack(images)
        captions = [image.facts["caption"] for image in images]
        originals = [_original_size(image) for image in images]
        missing = len(pixels) - len(images)
        scores = score_images(
            self._models,
            pixels,
            captions=[*captions, *[None] * missing],
            originals=[*originals, *[OriginalSize(1, 1)] * missing],
            num_rows=len(images),
        )
        return _to_table(self._shard_id, images, scores, self._schema)


def _attempt(models: ScoreModels, batch_size: int) -> None:
    score_images(
        models,
        torch.zeros((batch_size, 3, _USUAL_PX, _USUAL_PX), dtype=torch.uint8),
        captions=[_LONG_CAPTION] * batch_size,
        originals=[OriginalSize(2 * _USUAL_PX, 2 * _USUAL_PX)] * batch_size,
    )


def _original_size(image: StoredImage) -> OriginalSize:
    facts = image.facts
    return OriginalSize(facts["original_width"], facts["original_height"])


def _to_table(
    shard_id: int, batch: Sequence[StoredImage], scores: Mapping[str, Values], schema: pa.Schema
) -> pa.Table:
    num_rows = len(batch)
    known: dict[str, list[Any]] = {
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
