"""A text encoder's tokenizer without its weights: how long captions are, and what is cut of them.

Of a model with several text encoders the first one's counts: XL's two share one vocabulary, and the
second reads the ids that the first's tokenizer gives; Stable Diffusion 3's T5 has a longer limit of
its own, which nothing counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_core.model.clip import load_clip_tokenizer
from sd_core.model.clip_tokenizer import clip_tokenizer, clip_vocabulary_tokenizer
from sd_core.model.single_file import detect_layout, is_single_file
from sd_core.model.text_encoder import TextEncoder, TextEncoderConfig
from sd_core.model.text_encoder_architectures import TEXT_ENCODER_ARCHITECTURES
from sd_core.model.text_encoder_loading import read_layout, tokenizer_sha256
from sd_core.model.weights import resolve_weights

_CAPTIONS_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class CaptionTokenizer:
    """Counts a caption's tokens as `tokenize_captions` makes them.

    Attributes:
        token_length: Ids that the text encoder reads, those that begin and end a caption included.
        sha256: Of vocabulary and special ids; `tokenizer_sha256` of the loaded text encoder.
    """

    tokenizer: Any
    token_length: int
    sha256: str

    @property
    def max_tokens(self) -> int:
        """A caption's own tokens that are read: 75 of Stable Diffusion's 77."""
        return self.token_length - int(self.tokenizer.num_special_tokens_to_add())

    def count(self, captions: Sequence[str]) -> npt.NDArray[np.int32]:
        """Tokens of each caption before any is cut, without those that begin and end it.

        About 10,000 to 40,000 captions a second on one core.
        """
        counts = np.empty(len(captions), np.int32)
        for start in range(0, len(captions), _CAPTIONS_AT_ONCE):
            part = list(captions[start : start + _CAPTIONS_AT_ONCE])
            tokens = self.tokenizer(
                part,
                add_special_tokens=False,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
            counts[start : start + len(part)] = [len(ids) for ids in tokens]
        return counts


def caption_tokenizer_of(encoder: TextEncoder) -> CaptionTokenizer:
    """That of a loaded text encoder."""
    return CaptionTokenizer(
        tokenizer=encoder.tokenizer,
        token_length=encoder.token_length,
        sha256=encoder.tokenizer_sha256,
    )


def load_caption_tokenizer(config: TextEncoderConfig) -> CaptionTokenizer:
    """The tokenizer that `load_text_encoder` would give, and none of the weights.

    Raises:
        WeightsError: it cannot be had.
    """
    if config.clip is not None:
        open_clip_tokenizer = load_clip_tokenizer(config.clip)
        tokenizer = clip_tokenizer(open_clip_tokenizer)
        length = int(open_clip_tokenizer.context_length)
    else:
        settings, tokenizer = _read(config)
        length = int(settings.get("max_position_embeddings", 77))
    return CaptionTokenizer(
        tokenizer=tokenizer, token_length=length, sha256=tokenizer_sha256(tokenizer)
    )


def _read(config: TextEncoderConfig) -> tuple[dict[str, Any], Any]:
    """The settings of the text encoder, and its tokenizer."""
    model, where = str(config.model), f"{config.part}.model"
    if model in TEXT_ENCODER_ARCHITECTURES:
        return _known(model)
    if not is_single_file(model, where=where):
        return read_layout(model, part=config.part, where=where)
    if config.layout is not None:
        return read_layout(config.layout, part=config.part, where=where)
    layout = detect_layout(resolve_weights(model, where=where), where=where)
    is_second = config.part == "text_encoder_2"
    return _known("sd-xl-2" if is_second else layout.replace("-xl", "-v1"))


def _known(architecture: str) -> tuple[dict[str, Any], Any]:
    settings = TEXT_ENCODER_ARCHITECTURES[architecture]
    return settings, clip_vocabulary_tokenizer(pad_token_id=settings["pad_token_id"])
