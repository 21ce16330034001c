"""Text in pictures as scores: how much of them it covers, and on request what it says."""

import re
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from pipelines.redact import redact_text_column
from pipelines.steps.score.scorer import ScoreBatch, Scorer, ScorerConfig, Values
from pipelines.steps.score.text_detector import FINDER, MAX_TEXT_CHARS, READER, text_mask
from sd_core.model.clip import Clip

_WHERE = "score.text"
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_LEAST_INNER_CHARS = 4  # of a word that is looked for within others, where spaces were not seen


class TextConfig(ScorerConfig):
    """Text in the picture: `text_area` (share of it, 0 to 1) and `text_boxes` (lines)."""

    read: bool = False
    """What is read, as `text`: up to 1,000 characters, redacted; Latin, Chinese, Japanese."""
    caption_is_text: bool = False
    """The share of the caption's words that stand in the picture, as `caption_is_text`."""

    def identity(self) -> dict[str, Any]:
        return super().identity() | detector_identity(_WHERE)

    def describe(self) -> str:
        return "PP-OCRv6 small, by rapidocr"


def detector_identity(where: str) -> dict[str, str]:
    """The digests of what text is found with; raises `MissingDetectorError` naming the key."""
    return {"finder": FINDER.sha256(where), "reader": READER.sha256(where)}


class Text(Scorer):
    """Lines of writing."""

    Config = TextConfig
    columns = (
        pa.field("text_area", pa.float32()),
        pa.field("text_boxes", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("caption_is_text", pa.float32()),
    )
    reads_text = True

    def __init__(self, config: TextConfig) -> None:
        self.config = config

    @classmethod
    def columns_of(cls, config: TextConfig) -> tuple[pa.Field, ...]:
        is_asked = {"text": config.read, "caption_is_text": config.caption_is_text}
        return tuple(field for field in cls.columns if is_asked.get(field.name, True))

    @classmethod
    def open(
        cls, config: TextConfig, *, device: torch.device, clip: Clip | None, where: str
    ) -> Self:
        return cls(config)

    @classmethod
    def check(cls, config: TextConfig, *, embed_dim: int | None, where: str) -> None:
        detector_identity(where)

    def score(self, batch: ScoreBatch) -> Mapping[str, Values]:
        size, found = batch.images.shape[-2:], batch.writing
        texts = [writing.text for writing in found]
        said = zip(batch.captions[: len(texts)], texts, strict=True)
        kept = [text[:MAX_TEXT_CHARS] for text in redact_text_column(pa.array(texts)).to_pylist()]
        scores: dict[str, Values] = {
            "text_area": np.array([text_mask(w.boxes, size).mean() for w in found], np.float32),
            "text_boxes": np.array([len(writing.boxes) for writing in found], np.int32),
            "text": pa.array(kept, pa.string()),
            "caption_is_text": pa.array([share_of_words(c or "", t) for c, t in said]),
        }
        return {field.name: scores[field.name] for field in self.fields}


def words_of(text: str) -> list[str]:
    """Its words in lower case; of Chinese and Japanese each character is one."""
    return _WORD.findall(text.casefold())


def share_of_words(caption: str, text: str) -> float | None:
    """The share of a caption's words that a text has, 0 to 1; None where it has no words."""
    asked, there = words_of(caption), words_of(text)
    known, joined = frozenset(there), "".join(there)
    if not asked:
        return None
    found = (w in known or (len(w) >= _LEAST_INNER_CHARS and w in joined) for w in asked)
    return sum(found) / len(asked)
