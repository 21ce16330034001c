"""The scores of a batch of images: every scorer's columns, one CLIP forward for all of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipelines.rows.ledger import SCORE_FACTS
from pipelines.steps.score.config import ScoreConfig
from pipelines.steps.score.scorer import ScoreBatch, Scorer, Scores, Values
from pipelines.steps.score.scorers import SCORERS
from pipelines.steps.score.text_detector import TextDetector
from sd_core.model.clip import Clip, load_clip
from sd_core.model.resample import OriginalSize
from sd_core.model.transfer import Returning, Transfers
from sd_core.model.weights import loads_weights


@dataclass(frozen=True, kw_only=True)
class ScoreModels:
    """The loaded models of a `ScoreConfig`, on one device; `scorers` by their keys."""

    device: torch.device
    clip: Clip | None
    scorers: Mapping[str, Scorer]
    detector: TextDetector | None = None

    def describe(self) -> dict[str, Any]:
        """What the scores are made with, for the run's record."""
        described: dict[str, Any] = {"device": self.device.type}
        if self.clip is not None:
            described |= {"dtype": str(self.clip.dtype), "clip": self.clip.weights_sha256}
        if self.detector is not None:
            described["text_detector"] = self.detector.made_with
        digests = {name: scorer.weights_sha256 for name, scorer in self.scorers.items()}
        return described | {name: digest for name, digest in digests.items() if digest is not None}

    @property
    def reads_captions(self) -> bool:
        """Whether any of the scorers does."""
        return any(scorer.reads_captions for scorer in self.scorers.values())

    def schema(self) -> pa.Schema:
        """Of `facts/score`: the columns of every run, then what these scorers add."""
        return score_schema(field for scorer in self.scorers.values() for field in scorer.fields)


def score_schema(added: Iterable[pa.Field]) -> pa.Schema:
    """Of `facts/score`: the columns of every run, then those that scorers add."""
    return pa.schema([*SCORE_FACTS, *(f for f in added if f.name not in SCORE_FACTS.names)])


@loads_weights
def load_score_models(config: ScoreConfig, *, device: str | torch.device) -> ScoreModels:
    """Load the CLIP and the scorers; raises `WeightsError` naming the key at fault."""
    place = torch.device(device)
    asked = config.scorers()
    reads_clip = any(SCORERS[name].reads_clip for name in asked)
    clip = load_clip(config.clip, device=place) if config.clip and reads_clip else None
    reads_text = any(SCORERS[name].reads_text for name in asked)
    detector = TextDetector.open(place, "score") if reads_text else None
    scorers = {
        name: SCORERS[name].open(section, device=place, clip=clip, where=f"score.{name}")
        for name, section in asked.items()
    }
    return ScoreModels(device=place, clip=clip, scorers=scorers, detector=detector)


@dataclass(frozen=True, kw_only=True)
class BatchScores:
    """What the scorers made of a batch, perhaps on its way from the device."""

    made: Mapping[str, Values | Scores]
    fetched: Returning

    def take(self) -> dict[str, Values]:
        """Every column's values, which are waited for once; B each, in order."""
        found: dict[str, Values] = {}
        arrays = iter(self.fetched.take())
        for name, values in self.made.items():
            found[name] = values
            if isinstance(values, Scores):
                array = next(arrays).numpy()
                null = values.is_null
                found[name] = array if null is None else pa.array(array, mask=np.array(null))
        return found


@torch.inference_mode()
def score_batch(models: ScoreModels, batch: ScoreBatch, transfers: Transfers) -> BatchScores:
    """Begin to score a batch; one that lies on a GPU is not waited for.

    Raises:
        ValueError: a scorer made other columns than it says.
    """
    scores: dict[str, Values | Scores] = {}
    for name, scorer in models.scorers.items():
        made = scorer.score(batch)
        expected = {field.name for field in scorer.fields}
        if made.keys() != expected:
            raise ValueError(f"{name} made {sorted(made)} where it says {sorted(expected)}")
        scores |= made
    there = [values.values for values in scores.values() if isinstance(values, Scores)]
    return BatchScores(made=scores, fetched=transfers.fetch(there))


def score_images(
    models: ScoreModels,
    images: Tensor,
    *,
    captions: Sequence[str | None],
    originals: Sequence[OriginalSize] | None = None,
    num_rows: int | None = None,
) -> dict[str, Values]:
    """The values of every column that a scorer makes, B each or `num_rows`, in order.

    Args:
        models: From `load_score_models`.
        images: (B, 3, H, W) uint8 RGB; the stored crops.
        captions: B captions; null or blank ones get no similarity.
        originals: Sizes of the B originals, so that embeddings are those of the originals.
        num_rows: How many of the images count, where the last ones only fill the batch up.
    """
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    batch = ScoreBatch(
        images=images,
        captions=captions,
        originals=originals,
        clip=models.clip,
        device=models.device,
        detector=models.detector,
        num_rows=num_rows,
    )
    return score_batch(models, batch, Transfers(models.device)).take()
