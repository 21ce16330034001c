"""What CLIP itself gives: how well the caption fits, and the embeddings."""

from collections.abc import Mapping, Sequence
from typing import Self

import pyarrow as pa
import torch

from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Scores
from sd_core.model.clip import Clip


class Similarity(Scorer):
    """Cosine of image and caption embeddings; null where there is no caption."""

    columns = (pa.field("clip_similarity", pa.float32()),)
    reads_clip = True
    reads_captions = True

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls()

    def score(self, batch: ScoreBatch) -> Mapping[str, Scores]:
        return {"clip_similarity": batch.similarity_of(batch.embeddings)}


class Embeddings(Scorer):
    """The image embeddings as float16, in the facts alone."""

    columns = ()
    reads_clip = True

    def __init__(self, embed_dim: int) -> None:
        self._field = pa.field("embedding", pa.list_(pa.float16(), embed_dim))

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        assert clip is not None
        return cls(clip.embed_dim)

    @property
    def fields(self) -> Sequence[pa.Field]:
        return (self._field,)

    def score(self, batch: ScoreBatch) -> Mapping[str, Scores]:
        return {"embedding": Scores(batch.embeddings.half())}
