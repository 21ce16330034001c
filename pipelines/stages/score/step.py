"""The score step: a shard's stored images in, one row of scores for each committed."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipelines.ledger import SCORE_FACTS
from pipelines.manifest import Manifest, SpooledFile, commit_shard
from pipelines.model_worker import free_models, prepare_torch, record_models
from pipelines.overlap import run_overlapped
from pipelines.shard_inputs import score_inputs
from pipelines.stages.score.score import (
    ScoreConfig,
    ScoreModels,
    Scores,
    load_score_models,
    score_images,
)
from pipelines.step import Resources
from pipelines.storage import RunStore
from pipelines.stored_images import (
    StoredImage,
    batches,
    count_images,
    iterate_images,
    stack_pixels,
)
from pipelines.tables import write_table
from sd_core.model.resample import OriginalSize


class ScoreStep:
    """Scores and commits shards.

    Args:
        store: The run.
        fingerprint: Of everything that can change the result.
        download: Fingerprint of the step that made the images.
        origin: That step's name, `download` or `generate`.
        options_digest: `StepIdentity.options_digest`, by which later revisions reuse shards.
        torch_threads: Torch's threads in this worker.
    """

    name = "score"

    def __init__(
        self,
        store: RunStore,
        *,
        fingerprint: str,
        download: str,
        config: ScoreConfig,
        torch_threads: int,
        origin: str = "download",
        options_digest: str = "",
        resources: Resources | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.resources = resources or Resources()
        self._store = store
        self._download = download
        self._origin = origin
        self._options_digest = options_digest
        self._config = config
        self._torch_threads = torch_threads
        self._models: ScoreModels | None = None

    def open(self) -> None:
        """Load the CLIP and the heads."""
        device = prepare_torch(self.resources, threads=self._torch_threads)
        models = load_score_models(self._config, device=device)
        record_models(
            self._store, step=self.name, fingerprint=self.fingerprint, models=models.describe()
        )
        self._models = models

    def close(self) -> None:
        """Drop the models."""
        self._models = None
        free_models()

    def rows_in(self, shard_id: int) -> int:
        """Images of a shard."""
        return count_images(
            self._store, download=self._download, shard_id=shard_id, origin=self._origin
        )

    def run(self, shard_id: int) -> Manifest:
        """Score a shard and commit its facts."""
        tables: list[pa.Table] = []
        run_overlapped(
            self._read(shard_id),
            work=lambda batch: (batch, self._score(batch[0], batch[1])),
            write=lambda done: tables.append(_to_table(shard_id, done[0][0], done[1])),
        )
        table = pa.concat_tables(tables) if tables else self._schema().empty_table()
        with tempfile.TemporaryDirectory(prefix=f"score-{shard_id:06d}-") as folder:
            path = Path(folder) / "facts.parquet"
            write_table(table.combine_chunks(), path)
            return commit_shard(
                self._store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=[
                    SpooledFile(
                        folder="facts/score", path=path, suffix=".parquet", num_rows=table.num_rows
                    )
                ],
                rows_in=table.num_rows,
                kept=table.num_rows,
                dropped={},
                inputs=score_inputs(
                    self._store,
                    options=self._options_digest,
                    origin=self._origin,
                    images=self._download,
                    shard=shard_id,
                ),
            )

    def _read(self, shard_id: int) -> Iterator[tuple[Sequence[StoredImage], torch.Tensor]]:
        size = self._config.batch_size
        images = iterate_images(
            self._store, download=self._download, shard_id=shard_id, origin=self._origin
        )
        for batch in batches(images, size=size):
            pixels = stack_pixels(batch, batch_size=size, where=f"{self._origin} shard {shard_id}")
            yield batch, torch.from_numpy(pixels)

    def _score(self, batch: Sequence[StoredImage], pixels: torch.Tensor) -> Scores:
        if self._models is None:
            raise RuntimeError("open() comes before run()")
        captions = [image.facts["caption"] for image in batch]
        originals = [_original_size(image) for image in batch]
        missing = len(pixels) - len(batch)
        return score_images(
            self._models,
            pixels,
            captions=[*captions, *[None] * missing],
            originals=[*originals, *[OriginalSize(1, 1)] * missing],
        )

    def _schema(self) -> pa.Schema:
        if not self._config.embeddings or self._models is None:
            return SCORE_FACTS
        return _with_embedding(self._models.clip.embed_dim)


def _original_size(image: StoredImage) -> OriginalSize:
    facts = image.facts
    return OriginalSize(facts["original_width"], facts["original_height"])


def _with_embedding(embed_dim: int) -> pa.Schema:
    return SCORE_FACTS.append(pa.field("embedding", pa.list_(pa.float16(), embed_dim)))


def _to_table(shard_id: int, batch: Sequence[StoredImage], scores: Scores) -> pa.Table:
    num_rows = len(batch)
    columns: dict[str, pa.Array] = {
        "shard_id": pa.array([shard_id] * num_rows, pa.int32()),
        "row": pa.array([image.facts["row"] for image in batch], pa.int32()),
        "key": pa.array([image.facts["key"] for image in batch], pa.string()),
        "aesthetic_v1": _column(scores.aesthetic_v1, num_rows),
        "aesthetic_v2": _column(scores.aesthetic_v2, num_rows),
        "punsafe": _column(scores.punsafe, num_rows),
        "pwatermark": _column(scores.pwatermark, num_rows),
        "clip_similarity": _column(
            scores.clip_similarity,
            num_rows,
            missing=[not (image.facts["caption"] or "").strip() for image in batch],
        ),
    }
    schema = SCORE_FACTS
    if scores.embeddings is not None:
        schema = _with_embedding(scores.embeddings.shape[1])
        flat = pa.array(np.ascontiguousarray(scores.embeddings[:num_rows]).reshape(-1))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, scores.embeddings.shape[1])
    return pa.Table.from_arrays([columns[name] for name in schema.names], schema=schema)


def _column(
    values: np.ndarray | None, num_rows: int, *, missing: Sequence[bool] | None = None
) -> pa.Array:
    if values is None:
        return pa.nulls(num_rows, pa.float32())
    mask = None if missing is None else np.array(missing, bool)
    return pa.array(values[:num_rows], pa.float32(), mask=mask)
