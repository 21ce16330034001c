"""What must be known of a class of denoisers, whatever its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sd_core.model.conditioning import Conditioning, TextEmbeddings
from sd_core.model.settings_check import Decisions

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TextShape:
    """What a text encoder gives, as its settings tell.

    Attributes:
        embed_dim: Width of a token's embedding.
        pooled_dim: Width of the text's own; 0 of T5.
    """

    kind: Literal["clip", "t5"]
    embed_dim: int
    pooled_dim: int


Texts = Mapping[str, TextEmbeddings]
"""By the encoder's part of the folder: `text_encoder`, `text_encoder_2`, ..., in order."""


def first_text(settings: Settings, texts: Texts, length: int) -> TextEmbeddings:
    """One encoder's as it is; its pooled text is not asked for."""
    first = next(iter(texts.values()))
    return replace(first, pooled_prompt_embeds=first.pooled_prompt_embeds[:, :0])


def width_fault(settings: Settings, texts: Mapping[str, TextShape]) -> str | None:
    """Where what is attended to is not as wide as what the encoders give side by side."""
    expected = settings.get("caption_channels") or settings.get("cross_attention_dim")
    found = sum(text.embed_dim for text in texts.values())
    if expected is None or expected == found:
        return None
    return (
        f"attends to text of width {expected}, and the text encoder(s) give {found}; they are not "
        "of one model"
    )


@dataclass(frozen=True, kw_only=True)
class DenoiserFamily:
    """One of diffusers' classes; an entry of `DENOISERS`.

    Attributes:
        part: Its name in a pipeline's folder.
        decisions: Which keys of its `config.json` are honoured.
        conditions: What its call takes beside inputs, timesteps and text, of its settings, the
            conditioning and the weights' dtype.
        text_classes: By part of the folder, the transformers class that its text encoder may be.
        text_fault: Why it does not go with these text encoders; None where it does.
        join_texts: Several encoders' texts to what it attends to; takes the settings, the texts
            and the tokens that an encoder which is left out would have given.
        joins_side_by_side: Whether that is the encoders' embeddings side by side, as a
            cache holds them.
        out_channels: Where its settings do not say.
        predicts_variance: It may give a variance beside, in as many channels, which is left out.
        computes_tensors: Some of its tensors are computed as it is built, so that it is built with
            values before it is filled.
        pipeline: The class of pipeline that opens it; None: as the task and the text say.
        completed: The settings with what diffusers itself makes of a missing one.
    """

    part: str
    decisions: Decisions
    conditions: Callable[[Settings, Conditioning, torch.dtype], dict[str, Any]]
    text_classes: Mapping[str, str]
    out_channels: int
    text_fault: Callable[[Settings, Mapping[str, TextShape]], str | None] = width_fault
    join_texts: Callable[[Settings, Texts, int], TextEmbeddings] = first_text
    joins_side_by_side: bool = True
    predicts_variance: bool = False
    computes_tensors: bool = False
    pipeline: str | None = None
    completed: Callable[[Settings], Settings] = lambda settings: settings
