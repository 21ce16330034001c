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
from sd_core.model.buckets import Bucket
from sd_core.model.config import ModelConfig
from sd_core.model.text_encoder import (
    EncodedCaptions,
    TextEncoder,
    TextEncoderConfig,
    embed_token_ids,
    encode_captions,
    load_text_encoder,
    tokenize_captions,
)
from sd_core.model.transfer import Returning, Sent, Transfers
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


@dataclass(frozen=True, kw_only=True)
class BatchInputs:
    """Images and captions as the models take them, on the way to the device.

    Attributes:
        captions: B of them.
        input_ids: (B, L) int32, on the CPU.
        sent: (M, H, W, 3) uint8 images, M a multiple of what the autoencoder takes at once; where
            embeddings are asked for also (`batch_size`, L) token ids.
    """

    captions: Sequence[str]
    input_ids: Tensor
    sent: Sent


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A batch that is being encoded, perhaps on its way from the device."""

    input_ids: Tensor
    fetched: Returning

    def take(self) -> EncodedBatch:
        """Wait for it, once."""
        raw_latents, *embeds = self.fetched.take()
        return EncodedBatch(
            raw_latents=raw_latents,
            input_ids=self.input_ids,
            prompt_embeds=embeds[0] if embeds else None,
        )


def pixels_for(
    models: EncodeModels, num_images: int, *, size: Bucket, batch_size: int, transfers: Transfers
) -> Tensor:
    """Memory for (M, H, W, 3) uint8 images: so many, and what fills them up to what the
    autoencoder always gets, as a model's last bit depends on the size of its batch."""
    multiple = models.autoencoder.slice_size or batch_size
    filled = -(-num_images // multiple) * multiple
    return transfers.empty(filled, size.height, size.width, 3, dtype=torch.uint8)


def batch_inputs(
    models: EncodeModels,
    pixels: Tensor,
    *,
    captions: Sequence[str],
    batch_size: int,
    transfers: Transfers,
) -> BatchInputs:
    """Tokenize at most `batch_size` captions, and send them and their images to the device.

    Args:
        pixels: Of `pixels_for`, RGB; the stored crops.
        captions: B captions; a row without one has an empty one.
        batch_size: The same for every call; to it the captions are filled up.
    """
    padded = [*captions, *[""] * (batch_size - len(captions))]
    input_ids = tokenize_captions(models.text_encoder, padded)
    asked = (pixels, input_ids) if models.prompt_embeds else (pixels,)
    return BatchInputs(
        captions=captions, input_ids=input_ids[: len(captions)], sent=transfers.send(*asked)
    )


@torch.inference_mode()
def encode_batch(models: EncodeModels, inputs: BatchInputs, transfers: Transfers) -> Encoding:
    """Begin to encode a batch; one on a GPU is not waited for."""
    images, *input_ids = inputs.sent.take()
    num_images = len(inputs.captions)
    pixels = images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)  # so channels are last
    found = [encode_images(models.autoencoder, pixels, form=models.form)]
    found += [embed_token_ids(models.text_encoder, ids).prompt_embeds for ids in input_ids]
    fetched = transfers.fetch([one[:num_images] for one in found])
    return Encoding(input_ids=inputs.input_ids, fetched=fetched)


def encode_empty_caption(models: EncodeModels) -> EmptyCaption:
    """The encoded empty caption that the cache holds once."""
    encoded: EncodedCaptions = encode_captions(models.text_encoder, [""])
    return EmptyCaption(
        input_ids=encoded.input_ids[0].numpy(),
        prompt_embeds=encoded.prompt_embeds[0].numpy(),
        pooled_prompt_embeds=encoded.pooled_prompt_embeds[0].numpy(),
    )


def describe_cache(
    models: EncodeModels, config: EncodeConfig, *, sizes: Sequence[Bucket]
) -> CacheSpec:
    """The `spec.json` of what these models make.

    Raises:
        WeightsError: a side is no multiple of the autoencoder's down-sampling.
    """
    autoencoder = models.autoencoder
    is_square = len(sizes) == 1 and sizes[0].width == sizes[0].height
    for side in (side for size in sizes for side in (size.width, size.height)):
        if side % autoencoder.downsampling:
            raise WeightsError(
                f"{'image.size' if is_square else 'image.buckets'}: {side} is no multiple of "
                f"{autoencoder.downsampling}, the down-sampling of {config.autoencoder.model}"
            )
    return CacheSpec(
        schema_version=1 if is_square else 2,
        identity=CacheIdentity(
            autoencoder=autoencoder.identity, text_encoder=models.text_encoder.identity
        ),
        form=models.form,
        dtype=config.dtype,
        format=config.format,
        resolution_px=sizes[0].width if is_square else None,
        buckets=() if is_square else tuple((size.width, size.height) for size in sizes),
        prompt_embeds=config.prompt_embeds,
        sources=config.describe_models(),
    )
