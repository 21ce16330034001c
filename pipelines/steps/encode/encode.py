"""Encode a batch: images to raw latents, captions to ids and embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sd_core.cache.formats import CacheFormatName
from sd_core.cache.samples import EmptyCaption
from sd_core.cache.spec import CacheIdentity, CacheSpec
from sd_core.model.autoencoder import (
    Autoencoder,
    LatentsForm,
    default_form,
    encode_images,
    load_autoencoder,
)
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.config import ModelConfig
from sd_core.model.text_encoder import (
    EncodedCaptions,
    TextEncoder,
    TextEncoderConfig,
    encode_captions,
    load_text_encoder,
    tokenize_captions,
)
from sd_core.model.weights import WeightsError, WeightsNeed, loads_weights


class EncodeConfig(ModelConfig):
    """What goes into the latent cache, and in which form."""

    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig
    form: Literal["auto", "moments", "mean"] = "auto"
    """`auto`: moments where the autoencoder has a posterior, else its one latent."""
    dtype: Literal["float16", "float32"] = "float16"
    """Number format of the stored latents and embeddings; what the models compute in is their
    `precision`."""
    format: CacheFormatName = "webdataset"
    """Tars that WebDataset reads, or Parquet; the same rows and values in either."""
    prompt_embeds: bool = True
    """Store text embeddings beside the token ids (78% of the bytes at Stable Diffusion's sizes)."""
    download_shards_per_file: int = Field(default=1, ge=1, le=1000)
    """Latent shard i holds the kept rows of this many download shards. Unit: shards."""
    batch_size: int = Field(default=8, ge=1, le=1024)
    """Images and captions per step; part of the result's last bit."""

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        return [
            *self.autoencoder.weight_needs(f"{where}.autoencoder"),
            *self.text_encoder.weight_needs(f"{where}.text_encoder"),
        ]

    def identity(self) -> dict[str, Any]:
        """The options that change the cache, as plain JSON without secrets."""
        own = self.model_dump(mode="json", exclude={"autoencoder", "text_encoder"})
        return {
            **own,
            "autoencoder": self.autoencoder.identity(),
            "text_encoder": self.text_encoder.identity(),
        }

    def describe_models(self) -> dict[str, str]:
        """One line for each model, for run.json."""
        return {
            "autoencoder": self.autoencoder.describe(),
            "text_encoder": self.text_encoder.describe(),
        }


@dataclass(frozen=True, kw_only=True)
class EncodeModels:
    """The loaded models of an `EncodeConfig`, on one device."""

    autoencoder: Autoencoder
    text_encoder: TextEncoder
    form: LatentsForm
    prompt_embeds: bool

    def describe(self) -> dict[str, Any]:
        """What the latents are made with, for the run's record."""
        return {
            "device": self.autoencoder.device.type,
            "dtype": str(self.autoencoder.dtype),
            "text_dtype": str(self.text_encoder.dtype),
            "autoencoder": self.autoencoder.weights_sha256,
            "text_encoder": self.text_encoder.weights_sha256,
            "tokenizer": self.text_encoder.tokenizer_sha256,
        }


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """B images and captions, on the CPU.

    Attributes:
        raw_latents: (B, C or 2C, h, w) float32, unscaled.
        input_ids: (B, L) int32.
        prompt_embeds: (B, L, D) float32, or None where they are not asked for.
    """

    raw_latents: Tensor
    input_ids: Tensor
    prompt_embeds: Tensor | None


@loads_weights
def load_encode_models(config: EncodeConfig, *, device: str | torch.device) -> EncodeModels:
    """Load the autoencoder and the text encoder; raises `WeightsError`."""
    autoencoder = load_autoencoder(config.autoencoder, device=device)
    if config.form == "moments" and not autoencoder.has_posterior:
        raise WeightsError(
            f"encode.form: 'moments', but {config.autoencoder.model} is a {autoencoder.kind} "
            "autoencoder without a posterior; use 'mean' or 'auto'"
        )
    return EncodeModels(
        autoencoder=autoencoder,
        text_encoder=load_text_encoder(config.text_encoder, device=device),
        form=default_form(autoencoder) if config.form == "auto" else config.form,
        prompt_embeds=config.prompt_embeds,
    )


@torch.inference_mode()
def encode_batch(
    models: EncodeModels, images: Tensor, *, captions: Sequence[str], batch_size: int
) -> EncodedBatch:
    """Encode at most `batch_size` images and captions.

    A model's last bit depends on the size of its batch, so each is padded to what it always gets:
    images to the autoencoder's slices, captions to `batch_size`.

    Args:
        models: From `load_encode_models`.
        images: (B, 3, H, W) uint8 RGB; the stored crops.
        captions: B captions; a row without one has an empty one.
        batch_size: The same for every call.
    """
    raw_latents = _encode_pixels(models, images, models.autoencoder.slice_size or batch_size)
    padded = [*captions, *[""] * (batch_size - len(captions))]
    if not models.prompt_embeds:
        input_ids = tokenize_captions(models.text_encoder, captions)
        return EncodedBatch(raw_latents=raw_latents, input_ids=input_ids, prompt_embeds=None)
    encoded = encode_captions(models.text_encoder, padded)
    return EncodedBatch(
        raw_latents=raw_latents,
        input_ids=encoded.input_ids[: len(captions)],
        prompt_embeds=encoded.prompt_embeds[: len(captions)],
    )


def _encode_pixels(models: EncodeModels, images: Tensor, multiple: int) -> Tensor:
    missing = -len(images) % multiple
    if missing:
        images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
    pixels = images.to(models.autoencoder.device).float().div_(127.5).sub_(1.0)
    raw_latents = encode_images(models.autoencoder, pixels, form=models.form)
    return raw_latents[: len(raw_latents) - missing].cpu()


def encode_empty_caption(models: EncodeModels) -> EmptyCaption:
    """The encoded empty caption that the cache holds once."""
    encoded: EncodedCaptions = encode_captions(models.text_encoder, [""])
    return EmptyCaption(
        input_ids=encoded.input_ids[0].numpy(),
        prompt_embeds=encoded.prompt_embeds[0].numpy(),
        pooled_prompt_embeds=encoded.pooled_prompt_embeds[0].numpy(),
    )


def describe_cache(models: EncodeModels, config: EncodeConfig, *, resolution_px: int) -> CacheSpec:
    """The `spec.json` of what these models make.

    Raises:
        WeightsError: the resolution is no multiple of the autoencoder's down-sampling.
    """
    autoencoder = models.autoencoder
    if resolution_px % autoencoder.downsampling:
        raise WeightsError(
            f"image.size: {resolution_px} is no multiple of {autoencoder.downsampling}, the "
            f"down-sampling of {config.autoencoder.model}"
        )
    return CacheSpec(
        identity=CacheIdentity(
            autoencoder=autoencoder.identity, text_encoder=models.text_encoder.identity
        ),
        form=models.form,
        dtype=config.dtype,
        format=config.format,
        resolution_px=resolution_px,
        prompt_embeds=config.prompt_embeds,
        sources=config.describe_models(),
    )
