"""The text encoder: transformers' CLIP text model or T5 encoder, and its tokenizer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sd_core.cache.spec import TextEncoderIdentity
from sd_core.model.clip import ClipConfig
from sd_core.model.conditioning import TextEmbeddings
from sd_core.model.config import ModelConfig
from sd_core.model.denoiser_family import TextShape
from sd_core.model.memory import place_module
from sd_core.model.precision import Precision, model_dtype
from sd_core.model.single_file import is_single_file
from sd_core.model.text_encoder_architectures import TEXT_ENCODER_ARCHITECTURES, shape_of_module
from sd_core.model.text_encoder_loading import (
    LoadedTextEncoder,
    TextPart,
    build_random_text_encoder,
    load_from_folder,
    load_from_open_clip,
    load_text_encoder_file,
    read_layout,
    text_encoder_settings_of_file,
    tokenizer_folder,
    tokenizer_sha256,
)
from sd_core.model.text_encoder_settings import token_length_of
from sd_core.model.weight_files import TRANSFORMERS_STEM, weight_files
from sd_core.model.weights import (
    WeightsNeed,
    join_reference,
    loads_weights,
    public_reference,
    refuse_bare,
    resolve_weights,
    weights_identity,
    weights_sha256,
)

HiddenStates = Literal["last", "penultimate"]
MAX_SEQUENCE_LENGTH: Final = 256
"""Tokens of a T5 encoder, where nothing else is said: what diffusers' pipeline takes."""


class TextEncoderConfig(ModelConfig):
    """Which text encoder: that of a diffusers folder, or the text tower of an open_clip model."""

    model: str | None = None
    """A reference to a diffusers pipeline folder (`hub:org/name@revision`, `/a/folder`) with
    `text_encoder` and `tokenizer` subfolders, or to a single-file checkpoint (.safetensors); with
    `pretrained: false` such a folder without weights, or the name of an architecture (`sd-v1`,
    `sd-v2`, `sd-v3`, `sd-xl-2`)."""
    part: TextPart = "text_encoder"
    """Which of the folder's encoders; each has its own tokenizer, such as `tokenizer_2`."""
    hidden_states: HiddenStates = "last"
    """The layer whose states the denoiser sees; XL and Stable Diffusion 3 take the `penultimate` of
    CLIP, without LayerNorm."""
    max_sequence_length: int = Field(default=MAX_SEQUENCE_LENGTH, ge=1, le=512)
    """Of T5: what a caption is padded to or cut at. Unit: tokens."""
    layout: str | None = None
    """Of a single file: a reference to a diffusers folder that tells its sizes and tokenizer, where
    they are not Stable Diffusion's."""
    clip: ClipConfig | None = None
    """An open_clip model whose text tower is used instead."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the `text_encoder` folder (of an open_clip model: `clip.sha256`)."""
    precision: Precision = "auto"
    """Number format that it runs in; `auto` is bf16 on a GPU that
    computes in it, else fp32."""
    pretrained: bool = True
    """False: random weights of `model`'s architecture (of open_clip: `clip.pretrained`)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of random weights."""

    @model_validator(mode="after")
    def _check(self) -> "TextEncoderConfig":
        if (self.model is None) == (self.clip is None):
            raise ValueError("set one of model (a diffusers folder) and clip (an open_clip model)")
        refuse_bare(self.model, TEXT_ENCODER_ARCHITECTURES, pretrained=self.pretrained)
        if self.clip is not None and (not self.pretrained or self.part != "text_encoder"):
            raise ValueError("pretrained and part are model's; for clip, set clip.pretrained")
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.clip is not None:
            return self.clip.weight_needs(f"{where}.clip")
        model = str(self.model)
        if model in TEXT_ENCODER_ARCHITECTURES:
            return []
        if is_single_file(model, where=f"{where}.model"):
            return [WeightsNeed(f"{where}.model", model, self.sha256)]
        tokenizer = join_reference(model, tokenizer_folder(self.part))
        return [
            WeightsNeed(f"{where}.model", join_reference(model, self.part), self.sha256),
            WeightsNeed(f"{where}.model", tokenizer),
        ]

    def identity(self) -> dict[str, Any]:
        """The options that change an embedding, as plain JSON without secrets."""
        options: dict[str, Any] = {"precision": self.precision}
        if self.hidden_states != "last":
            options |= {"hidden_states": self.hidden_states}
        if self.max_sequence_length != MAX_SEQUENCE_LENGTH:
            options |= {"max_sequence_length": self.max_sequence_length}
        if self.clip is not None:
            return options | {"clip": self.clip.identity()}
        if self.part != "text_encoder":
            options |= {"part": self.part}
        if not self.pretrained:
            options |= {"pretrained": False, "seed": self.seed}
        return options | weights_identity(str(self.model), self.sha256)

    def describe(self) -> str:
        """One line for people."""
        if self.clip is not None:
            return f"text tower of {self.clip.describe()}"
        shown = public_reference(str(self.model))
        return shown if self.pretrained else f"{shown}, RANDOM weights of seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A loaded text encoder in eval mode and its tokenizer.

    Captions become BOS, tokens, EOS, then the tokenizer's padding token up to `token_length`:
    EOS again for Stable Diffusion 1.x and for towers that use open_clip's built-in tokenizer
    (which itself would pad with 0), whatever the folder says where there is one. Attention is
    causal and without a padding mask, as in Stable Diffusion. T5's are tokens, EOS, padding;
    attention is in both directions, without a mask too, as in Stable Diffusion 3.
    """

    module: nn.Module
    tokenizer: Any
    token_length: int
    shape: TextShape
    pad_token_id: int
    source: Literal["diffusers", "open_clip"]
    device: torch.device
    dtype: torch.dtype
    weights_sha256: str
    """Of the float32 weights, and of the layer that is taken where it is not the last."""
    tokenizer_sha256: str
    hidden_states: HiddenStates = "last"

    @property
    def embed_dim(self) -> int:
        """Width of a token's embedding."""
        return self.shape.embed_dim

    @property
    def identity(self) -> TextEncoderIdentity:
        """What caches of it share."""
        return TextEncoderIdentity(
            **{name: getattr(self, name) for name in TextEncoderIdentity.model_fields}
        )


@dataclass(frozen=True, kw_only=True)
class EncodedCaptions(TextEmbeddings):
    """Token ids, (B, L) int32, and embeddings of B captions, on the CPU."""

    input_ids: Tensor


@loads_weights
def load_text_encoder(config: TextEncoderConfig, *, device: str | torch.device) -> TextEncoder:
    """Load the model and tokenizer; raises `WeightsError`."""
    loaded = _load(config)
    module: Any = loaded.module.eval().requires_grad_(False)
    dtype = model_dtype(config.precision, device)
    digest = _digest(module, config.hidden_states)
    return TextEncoder(
        module=place_module(module, device=device, dtype=dtype),
        tokenizer=loaded.tokenizer,
        token_length=_token_length(config, module, loaded.tokenizer),
        shape=shape_of_module(module),
        pad_token_id=int(loaded.tokenizer.pad_token_id),
        source="open_clip" if config.clip is not None else "diffusers",
        device=torch.device(device),
        dtype=dtype,
        weights_sha256=digest,
        tokenizer_sha256=tokenizer_sha256(loaded.tokenizer),
        hidden_states=config.hidden_states,
    )


def text_encoder_settings(config: TextEncoderConfig) -> dict[str, Any] | None:
    """What the encoder is built of, its tokenizer held against it; None of an open_clip model.

    Raises:
        WeightsError: a file cannot be had, or says what is not honoured.
    """
    if config.clip is not None:
        return None
    model, where = str(config.model), f"{config.part}.model"
    if model in TEXT_ENCODER_ARCHITECTURES:
        return TEXT_ENCODER_ARCHITECTURES[model]
    if is_single_file(model, where=where):
        if config.layout is None:
            return text_encoder_settings_of_file(model, part=config.part, where=where)
        model = config.layout
    elif config.pretrained:
        folder = resolve_weights(join_reference(model, config.part), where=where)
        weight_files(folder, TRANSFORMERS_STEM, where=where)
    settings, _ = read_layout(model, part=config.part, where=where)
    return settings


def _token_length(config: TextEncoderConfig, module: Any, tokenizer: Any) -> int:
    """open_clip's tokenizers do not tell; a folder's may hold fewer tokens than its encoder."""
    if config.clip is not None:
        return int(module.config.max_position_embeddings)
    if shape_of_module(module).kind == "t5":
        return min(config.max_sequence_length, int(tokenizer.model_max_length))
    return token_length_of(tokenizer, module.config.to_dict())


def _load(config: TextEncoderConfig) -> LoadedTextEncoder:
    if config.clip is not None:
        return load_from_open_clip(config.clip)
    model, part = str(config.model), config.part
    if not config.pretrained:
        return build_random_text_encoder(model, part=part, seed=config.seed)
    if is_single_file(model, where=f"{part}.model"):
        return load_text_encoder_file(
            model, part=part, layout_folder=config.layout, sha256=config.sha256
        )
    return load_from_folder(model, part=part, sha256=config.sha256)


def rehashed(encoder: TextEncoder) -> TextEncoder:
    """The encoder with the hash of the weights that it has now."""
    digest = _digest(encoder.module, encoder.hidden_states)
    return replace(encoder, weights_sha256=digest)


def _digest(module: Any, hidden_states: HiddenStates) -> str:
    # transformers 4 nests the plain model one level deeper than 5; the hash must not tell them
    # apart. A projection lies beside the nested model in both.
    has_projection = hasattr(module, "text_projection")
    digest = weights_sha256(module if has_projection else getattr(module, "text_model", module))
    if hidden_states == "last":
        return digest
    return hashlib.sha256(f"{digest} {hidden_states}".encode()).hexdigest()


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


def encode_captions(encoder: TextEncoder, captions: Sequence[str]) -> EncodedCaptions:
    """Tokenize and encode captions (an empty one is encoded like any other)."""
    return encode_token_ids(encoder, tokenize_captions(encoder, captions))


def encode_token_ids(encoder: TextEncoder, input_ids: Tensor) -> EncodedCaptions:
    """Encode (B, L) token ids, such as a cache holds."""
    embeddings = embed_token_ids(encoder, input_ids)
    return EncodedCaptions(
        input_ids=input_ids.int().cpu(),
        prompt_embeds=embeddings.prompt_embeds.cpu(),
        pooled_prompt_embeds=embeddings.pooled_prompt_embeds.cpu(),
    )


@torch.no_grad()  # not inference mode: a denoiser may learn from these
def embed_token_ids(encoder: TextEncoder, input_ids: Tensor) -> TextEmbeddings:
    """Embed (B, L) token ids on the encoder's device, without bringing anything to the CPU."""
    module: Any = encoder.module
    ids = input_ids.to(encoder.device).long()
    if encoder.shape.kind == "t5":
        states = module(input_ids=ids).last_hidden_state.float()
        return TextEmbeddings(
            prompt_embeds=states, pooled_prompt_embeds=states.new_zeros(len(states), 0)
        )
    is_penultimate = encoder.hidden_states == "penultimate"
    output = module(input_ids=ids, output_hidden_states=is_penultimate)
    embeds = output.hidden_states[-2] if is_penultimate else output.last_hidden_state
    has_projection = hasattr(module, "text_projection")
    pooled = output.text_embeds if has_projection else output.pooler_output
    return TextEmbeddings(prompt_embeds=embeds.float(), pooled_prompt_embeds=pooled.float())
