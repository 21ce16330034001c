"""How well a caption fits its picture when the letters in the picture are gone."""

from collections.abc import Mapping
from typing import Any, Final, Self

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Scores
from pipelines.steps.score.text import detector_identity
from pipelines.steps.score.text_detector import Boxes, Pixels, text_mask
from sd_core.model.clip import Clip

KEY: Final = "score.clip.without_text"
"""The switch that asks for it."""

_RING_PX = 6
_GREY = 127


class WithoutTextConfig(ScorerConfig):
    """Asked for by `score.clip.without_text`."""

    def identity(self) -> dict[str, Any]:
        return detector_identity(KEY)

    def describe(self) -> str:
        return "similarity without the text in the picture, by T-MARS"


class WithoutText(Scorer):
    """Cosine of caption and picture, its lines of writing filled from what is around them; of a
    picture without any it is `clip_similarity`.

    Source: Maini et al. 2023, "T-MARS", arXiv:2307.03132.
    """

    Config = WithoutTextConfig
    columns = (pa.field("clip_similarity_without_text", pa.float32()),)
    reads_clip = True
    reads_captions = True
    reads_text = True

    @classmethod
    def open(
        cls, config: ScorerConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls()

    @classmethod
    def check(cls, config: ScorerConfig, *, embed_dim: int | None, where: str) -> None:
        detector_identity(KEY)

    def score(self, batch: ScoreBatch) -> Mapping[str, Scores]:
        has_text = torch.zeros(len(batch.images), 1, dtype=torch.bool)
        filled = batch.images.clone()
        found = zip(batch.pictures, batch.writing, strict=True)
        for place, (picture, writing) in enumerate(found):
            if len(writing.boxes):
                has_text[place] = True
                plain = torch.from_numpy(fill_lines(picture, writing.boxes))
                filled[place] = plain.permute(2, 0, 1)
        embeddings = batch.embeddings
        if has_text.any():  # all go through, so that a batch has the size that it always has
            again = batch.loaded_clip.encode_images(
                filled, originals=batch.originals, grid=batch.grid
            )
            embeddings = torch.where(has_text.to(again.device), again, embeddings)
        return {self.columns[0].name: batch.similarity_of(embeddings)}


def fill_lines(picture: Pixels, boxes: Boxes) -> Pixels:
    """The picture with each line filled with the mean colour of what stands around it."""
    is_free = text_mask(boxes, picture.shape[:2]) == 0
    filled = picture.copy()
    everywhere = _mean_colour(picture, is_free)
    ring = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * _RING_PX + 1, 2 * _RING_PX + 1))
    for box in boxes:
        line = text_mask(box[None], picture.shape[:2])
        around = (cv2.dilate(line, ring) == 1) & is_free
        filled[line == 1] = _mean_colour(picture, around) if around.any() else everywhere
    return filled


def _mean_colour(picture: Pixels, where: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Of these pixels, rounded; grey where there are none."""
    chosen = picture[where]
    return np.rint(chosen.mean(axis=0)) if len(chosen) else np.full(3, _GREY)
