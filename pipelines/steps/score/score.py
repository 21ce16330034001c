"""The scores of a batch of images: one CLIP forward each, then heads on the embedding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from pipelines.steps.score.heads import HeadConfig, HeadKind, ScoreHead, load_head
from sd_core.model.clip import Clip, ClipConfig, load_clip
from sd_core.model.config import ModelConfig
from sd_core.model.resample import OriginalSize
from sd_core.model.weights import WeightsNeed, loads_weights, weights_sha256

FloatArray = npt.NDArray[np.float32]


class ScoreConfig(ModelConfig):
    """What to score with; a score whose model is not configured is null in every row."""

    clip: ClipConfig
    aesthetic_v1: HeadConfig | None = None
    """LAION's first aesthetic head, one layer, 0 to 10. Null: no `aesthetic_v1`."""
    aesthetic_v2: HeadConfig | None = None
    """LAION's second one, five layers, 0 to 10. Null: no `aesthetic_v2`."""
    nsfw: HeadConfig | None = None
    """Head that gives `punsafe`."""
    watermark: HeadConfig | None = None
    """Head of the same form that gives `pwatermark`; LAION published none for embeddings."""
    similarity: bool = True
    """Cosine of image and caption embeddings, as `clip_similarity`."""
    embeddings: bool = False
    """Keep the image embeddings (float16) in the facts."""
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Images per forward; part of the result's last bit."""

    @model_validator(mode="after")
    def _check(self) -> "ScoreConfig":
        if not (self.similarity or self.embeddings or any(self._heads().values())):
            raise ValueError("nothing to score: set a head, similarity or embeddings")
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        needs = self.clip.weight_needs(f"{where}.clip")
        for name, head in self._heads().items():
            needs += head.weight_needs(f"{where}.{name}") if head else []
        return needs

    def identity(self) -> dict[str, Any]:
        """The options that change a score, as plain JSON without secrets."""
        heads = {name: head.identity() for name, head in self._heads().items() if head}
        return {
            "clip": self.clip.identity(),
            **heads,
            "similarity": self.similarity,
            "embeddings": self.embeddings,
            "batch_size": self.batch_size,
        }

    def describe_models(self) -> dict[str, str]:
        """One line for each model, for run.json."""
        heads = {name: head.describe() for name, head in self._heads().items() if head}
        return {"clip": self.clip.describe(), **heads}

    def _heads(self) -> dict[str, HeadConfig | None]:
        return {
            "aesthetic_v1": self.aesthetic_v1,
            "aesthetic_v2": self.aesthetic_v2,
            "nsfw": self.nsfw,
            "watermark": self.watermark,
        }


@dataclass(frozen=True, kw_only=True)
class ScoreModels:
    """The loaded models of a `ScoreConfig`, on one device."""

    clip: Clip
    aesthetic_v1: ScoreHead | None
    aesthetic_v2: ScoreHead | None
    nsfw: ScoreHead | None
    watermark: ScoreHead | None
    similarity: bool
    embeddings: bool

    def describe(self) -> dict[str, Any]:
        """What the scores are made with, for the run's record."""
        heads = {
            "aesthetic_v1": self.aesthetic_v1,
            "aesthetic_v2": self.aesthetic_v2,
            "nsfw": self.nsfw,
            "watermark": self.watermark,
        }
        return {
            "device": self.clip.device.type,
            "dtype": str(self.clip.dtype),
            "clip": self.clip.weights_sha256,
            **{name: weights_sha256(head) for name, head in heads.items() if head is not None},
        }


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of B images, in order; None for a score that was not asked for.

    `clip_similarity` is NaN where there is no caption. `embeddings` is (B, embed_dim) float16.
    """

    aesthetic_v1: FloatArray | None
    aesthetic_v2: FloatArray | None
    punsafe: FloatArray | None
    pwatermark: FloatArray | None
    clip_similarity: FloatArray | None
    embeddings: npt.NDArray[np.float16] | None


@loads_weights
def load_score_models(
    config: ScoreConfig, *, device: str | torch.device, where: str = "score"
) -> ScoreModels:
    """Load the CLIP and the heads; raises `WeightsError` naming the key at fault."""
    clip = load_clip(config.clip, device=device)
    width = clip.embed_dim

    def head(name: str, section: HeadConfig | None, kind: HeadKind) -> ScoreHead | None:
        if section is None:
            return None
        loaded = load_head(section, kind=kind, embed_dim=width, where=f"{where}.{name}")
        return loaded.to(device)

    return ScoreModels(
        clip=clip,
        aesthetic_v1=head("aesthetic_v1", config.aesthetic_v1, "aesthetic"),
        aesthetic_v2=head("aesthetic_v2", config.aesthetic_v2, "aesthetic"),
        nsfw=head("nsfw", config.nsfw, "nsfw"),
        watermark=head("watermark", config.watermark, "nsfw"),
        similarity=config.similarity,
        embeddings=config.embeddings,
    )


@torch.inference_mode()
def score_images(
    models: ScoreModels,
    images: Tensor,
    *,
    captions: Sequence[str | None],
    originals: Sequence[OriginalSize] | None = None,
) -> Scores:
    """Score a batch with one CLIP image forward.

    Args:
        models: From `load_score_models`.
        images: (B, 3, H, W) uint8 RGB; the stored crops.
        captions: B captions; null or blank ones get no similarity.
        originals: Sizes of the B originals, so that embeddings are those of the originals.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    embeddings = models.clip.encode_images(images, originals=originals)
    return Scores(
        aesthetic_v1=_apply(models.aesthetic_v1, embeddings),
        aesthetic_v2=_apply(models.aesthetic_v2, embeddings),
        punsafe=_apply(models.nsfw, embeddings),
        pwatermark=_apply(models.watermark, embeddings),
        clip_similarity=_similarity(models.clip, embeddings, captions)
        if models.similarity
        else None,
        embeddings=embeddings.half().cpu().numpy() if models.embeddings else None,
    )


def _apply(head: ScoreHead | None, embeddings: Tensor) -> FloatArray | None:
    return None if head is None else head(embeddings).float().cpu().numpy()


def _similarity(clip: Clip, embeddings: Tensor, captions: Sequence[str | None]) -> FloatArray:
    texts = [caption or "" for caption in captions]
    cosines = (embeddings * clip.encode_captions(texts)).sum(dim=-1)
    blank = torch.tensor([not text.strip() for text in texts], device=cosines.device)
    similarity: FloatArray = cosines.masked_fill(blank, torch.nan).cpu().numpy()
    return similarity
