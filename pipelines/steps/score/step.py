"""The score step: a shard's stored images in, one row of scores for each committed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.rows.failures import Failures, Isolation, failed_rows, spool_rejects
from pipelines.rows.ledger import ROW_FAILED, SCORE_FACTS
from pipelines.run.images import (
    StoredImage,
    batches_of_one_size,
    count_images,
    iterate_images,
    stack_pixels,
)
from pipelines.run.manifest import Manifest, SpooledFile, commit_shard
from pipelines.run.shard_inputs import score_inputs
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.run.tables import write_table
from pipelines.steps.model_worker import free_models, prepare_torch, record_models
from pipelines.steps.overlap import run_overlapped
from pipelines.steps.score.score import (
    ScoreConfig,
    ScoreModels,
    Scores,
    load_score_models,
    score_images,
)
from pipelines.steps.step import Resources
from sd_core.model.resample import OriginalSize

REJECTS_FOLDER = "facts/score/rejects"
_IDENTITY = pa.schema([SCORE_FACTS.field(name) for name in ("shard_id", "row", "key")])


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
        """Score a shard and commit its facts; a row that a library refuses has no scores."""
        shard = _Shard(shard_id=shard_id)
        isolation = Isolation[StoredImage, pa.Table](
            lambda images: self._score(images, shard),
            key_of=lambda image: image.facts["key"],
            failures=shard.failures,
        )
        run_overlapped(
            self._read(shard),
            work=lambda batch: isolation.run(shard.ready(batch)),
            write=shard.tables.extend,
        )
        isolation.finish()
        rejects = failed_rows(shard.rows, shard.failures)
        table = self._table(shard, rejects)
        with spool_folder() as folder:
            path = folder / "facts.parquet"
            write_table(table.combine_chunks(), path)
            facts = SpooledFile(
                folder="facts/score", path=path, suffix=".parquet", num_rows=table.num_rows
            )
            refused = folder / "rejects.parquet"
            return commit_shard(
                self._store,
                step=self.name,
                fingerprint=self.fingerprint,
                shard_id=shard_id,
                files=[facts, *spool_rejects(rejects, path=refused, folder=REJECTS_FOLDER)],
                rows_in=table.num_rows,
                kept=table.num_rows - len(rejects),
                dropped={ROW_FAILED: len(rejects)},
                inputs=score_inputs(
                    self._store,
                    options=self._options_digest,
                    origin=self._origin,
                    images=self._download,
                    shard=shard_id,
                ),
            )

    def _read(self, shard: "_Shard") -> Iterator["_Batch"]:
        size = self._config.batch_size
        images = iterate_images(
            self._store,
            download=self._download,
            shard_id=shard.shard_id,
            origin=self._origin,
            on_failure=shard.refuse,
        )
        for batch in batches_of_one_size(shard.noted(images), size=size):
            yield _Batch(images=batch, pixels=self._stack(batch, shard))

    def _stack(self, images: Sequence[StoredImage], shard: "_Shard") -> torch.Tensor:
        where = f"{self._origin} shard {shard.shard_id}"
        size = self._config.batch_size
        return torch.from_numpy(stack_pixels(images, batch_size=size, where=where))

    def _score(self, images: Sequence[StoredImage], shard: "_Shard") -> pa.Table:
        if self._models is None:
            raise RuntimeError("open() comes before run()")
        pixels = shard.stacked(images)
        if pixels is None:  # a part of a batch, found row by row
            pixels = self._stack(images, shard)
        captions = [image.facts["caption"] for image in images]
        originals = [_original_size(image) for image in images]
        missing = len(pixels) - len(images)
        scores = score_images(
            self._models,
            pixels,
            captions=[*captions, *[None] * missing],
            originals=[*originals, *[OriginalSize(1, 1)] * missing],
        )
        return _to_table(shard.shard_id, images, scores)

    def _table(self, shard: "_Shard", rejects: Sequence[dict[str, Any]]) -> pa.Table:
        """All rows in order; those that were refused with null scores."""
        schema = self._schema()
        refused = pa.Table.from_pylist(list(rejects), schema=_IDENTITY)
        for column in schema:
            if column.name not in refused.column_names:
                refused = refused.append_column(column, pa.nulls(len(rejects), column.type))
        table = pa.concat_tables([*shard.tables, refused.select(schema.names).cast(schema)])
        rows = np.asarray(table["row"])
        return table if (np.diff(rows) > 0).all() else table.take(np.argsort(rows, kind="stable"))

    def _schema(self) -> pa.Schema:
        if not self._config.embeddings or self._models is None:
            return SCORE_FACTS
        return _with_embedding(self._models.clip.embed_dim)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Images of one size, and their pixels filled up to the batch size."""

    images: Sequence[StoredImage]
    pixels: torch.Tensor


@dataclass(kw_only=True)
class _Shard:
    """What is gathered of a shard while it is scored."""

    shard_id: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)
    tables: list[pa.Table] = field(default_factory=list)
    _ready: _Batch | None = None

    def noted(self, images: Iterator[StoredImage]) -> Iterator[StoredImage]:
        """The same images, each of whose rows is remembered."""
        for image in images:
            self.rows.append({**image.facts, "shard_id": self.shard_id})
            yield image

    def refuse(self, facts: dict[str, Any], error: Exception) -> None:
        """Take a row whose stored image does not decode."""
        self.rows.append({**facts, "shard_id": self.shard_id})
        self.failures[facts["key"]] = error

    def ready(self, batch: _Batch) -> Sequence[StoredImage]:
        """The images of a batch whose pixels are stacked already."""
        self._ready = batch
        return batch.images

    def stacked(self, images: Sequence[StoredImage]) -> torch.Tensor | None:
        """Their pixels, where they are a whole batch."""
        whole = self._ready
        return whole.pixels if whole is not None and whole.images is images else None


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
