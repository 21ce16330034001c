"""The score step: a shard's stored images in, one row of scores for each committed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa
import torch

from pipelines.rows.failures import spool_rejects
from pipelines.rows.ledger import ROW_FAILED
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.shard_inputs import score_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.steps.left_rows import spool_table
from pipelines.steps.model_worker import ModelStep, free_models
from pipelines.steps.score.config import ScoreConfig
from pipelines.steps.score.score import ScoreModels, load_score_models, score_images, score_schema
from pipelines.steps.score.shard import ScoreShard
from sd_core.model.precision import auto_is
from sd_core.model.resample import OriginalSize

SCORE_REJECTS = "facts/score/rejects"
_USUAL_PX = 512
_LONG_CAPTION = "a long caption " * 40


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
        device = self._device()
        with auto_is(self._recorded_dtype()):
            models = load_score_models(self.config, device=device)
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

    def begin(self, shard_id: int) -> ScoreShard:
        """The images of a shard, on their way to scores."""
        if self._models is None:
            raise RuntimeError("open() comes before run()")
        return ScoreShard(
            shard_id,
            images=self.images,
            models=self._models,
            batch_size=self.batch_size,
            text_length=self.config.text_length,
            num_threads=self.decode_threads,
            publish=partial(self.commit, shard_id),
        )

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


def _attempt(models: ScoreModels, batch_size: int) -> None:
    score_images(
        models,
        torch.zeros((batch_size, 3, _USUAL_PX, _USUAL_PX), dtype=torch.uint8),
        captions=[_LONG_CAPTION] * batch_size,
        originals=[OriginalSize(2 * _USUAL_PX, 2 * _USUAL_PX)] * batch_size,
    )
