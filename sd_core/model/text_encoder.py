"""The text encoder: a transformers CLIP text model and its tokenizer, wherever they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sd_core.model.clip import ClipConfig
from sd_core.model.config import ModelConfig
from sd_core.model.precision import Precision, model_dtype
from sd_core.model.text_encoder_loading import (
    load_from_folder,
    load_from_open_clip,
    tokenizer_sha256,
)
from sd_core.model.weights import (
    WeightsNeed,
    join_reference,
    public_reference,
    weights_identity,
    weights_sha256,
)


class TextEncoderConfig(ModelConfig):
    """Which text encoder: that of a diffusers folder, or the text tower of an open_clip model."""

    model: str | None = None
    """A reference to a diffusers pipeline folder (`hub:org/name@revision`, `/a/folder`) with
    `text_encoder` and `tokenizer` subfolders."""
    clip: ClipConfig | None = None
    """An open_clip model whose text tower is used instead."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the `text_encoder` folder (of an open_clip model: `clip.sha256`)."""
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _check(self) -> "TextEncoderConfig":
        if (self.model is None) == (self.clip is None):
            raise ValueError("set one of model (a diffusers folder) and clip (an open_clip model)")
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.clip is not None:
            return self.clip.weight_needs(f"{where}.clip")
        model = str(self.model)
        return [
            WeightsNeed(f"{where}.model", join_reference(model, "text_encoder"), self.sha256),
            WeightsNeed(f"{where}.model", join_reference(model, "tokenizer")),
        ]

    def identity(self) -> dict[str, Any]:
        """The options that change an embedding, as plain JSON without secrets."""
        options: dict[str, Any] = {"precision": self.precision}
        if self.clip is not None:
            return options | {"clip": self.clip.identity()}
        return options | weights_identity(str(self.model), self.sha256)

    def describe(self) -> str:
        """One line for people."""
        if self.clip is not None:
            return f"text tower of {self.clip.describe()}"
        return public_reference(str(self.model))


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A loaded CLIP text encoder in eval mode and its tokenizer.

    Captions become BOS, tokens, EOS, then the tokenizer's padding token up to `token_length`:
    EOS again for Stable Diffusion 1.x and for towers that use open_clip's built-in tokenizer
    (which itself would pad with 0), whatever the folder says where there is one. Attention is
    causal and without a padding mask, as in Stable Diffusion.
    """

    module: nn.Module
    tokenizer: Any
    token_length: int
    embed_dim: int
    pad_token_id: int
    source: Literal["diffusers", "open_clip"]
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str
    """Of the float32 weights."""
    tokenizer_sha256: str


@dataclass(frozen=True, kw_only=True)
class EncodedCaptions:
    """Token ids and embeddings of B captions, on the CPU.

    Args:
        input_ids: (B, L) int32.
        prompt_embeds: (B, L, D) float32, the last hidden state after the final LayerNorm.
        pooled_prompt_embeds: (B, D) float32, its row at EOS, not projected.
    """

    input_ids: Tensor
    prompt_embeds: Tensor
    pooled_prompt_embeds: Tensor


def load_text_encoder(config: TextEncoderConfig, *, device: str | torch.device) -> TextEncoder:
    """Load the model and tokenizer; raises `WeightsError`."""
    if config.clip is not None:
        loaded = load_from_open_clip(config.clip)
    else:
        loaded = load_from_folder(str(config.model), sha256=config.sha256)
    module: Any = loaded.module.eval().requires_grad_(False)
    # transformers 4 nests the model one level deeper than 5; the hash must not tell them apart.
    digest = weights_sha256(getattr(module, "text_model", module))
    dtype = model_dtype(config.precision, device)
    return TextEncoder(
        module=module.to(device=device, dtype=dtype),
        tokenizer=loaded.tokenizer,
        token_length=int(module.config.max_position_embeddings),
        embed_dim=int(module.config.hidden_size),
        pad_token_id=int(loaded.tokenizer.pad_token_id),
        source="open_clip" if config.clip is not None else "diffusers",
        device=torch.device(device),
        dtype=dtype,
        weights_sha256=digest,
        tokenizer_sha256=tokenizer_sha256(loaded.tokenizer),
    )


def tokenize_captions(encoder: TextEncoder, captions: Sequence[str]) -> Tensor:
    """Token ids of captions, truncated and padded: (B, token_length) int32 on the CPU."""
    tokens = encoder.tokenizer(
        list(captions),
        padding="max_length",
        max_length=encoder.token_length,
        truncation=True,
        return_tensors="pt",
    )
    ids: Tensor = tokens["input_ids"].int()
    return ids


@torch.inference_mode()
def encode_captions(encoder: TextEncoder, captions: Sequence[str]) -> EncodedCaptions:
    """Tokenize and encode captions (an empty one is encoded like any other)."""
    input_ids = tokenize_captions(encoder, captions)
    return EncodedCaptions(input_ids=input_ids, **_encode_ids(encoder, input_ids))


@torch.inference_mode()
def encode_token_ids(encoder: TextEncoder, input_ids: Tensor) -> EncodedCaptions:
    """Encode (B, L) token ids, such as a cache holds."""
    return EncodedCaptions(input_ids=input_ids.int().cpu(), **_encode_ids(encoder, input_ids))


def _encode_ids(encoder: TextEncoder, input_ids: Tensor) -> dict[str, Tensor]:
    module: Any = encoder.module
    output = module(input_ids=input_ids.to(encoder.device).long())
    return {
        "prompt_embeds": output.last_hidden_state.float().cpu(),
        "pooled_prompt_embeds": output.pooler_output.float().cpu(),
    }
