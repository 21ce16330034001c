"""The models that items share, loaded once in a process: the presets, or real sizes with random
weights."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from pipelines.steps.encode import EncodeConfig
from pipelines.steps.generate import GenerateConfig
from pipelines.steps.generate.models import GenerateModels, load_generate_models
from pipelines.steps.score import HeadConfig, ScoreConfig
from pipelines.steps.score.config import ScoreClipConfig
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import ClipConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.precision import Precision
from sd_core.model.text_encoder import TextEncoderConfig

_CLIP_EMBED_DIM = 768
_TINY_UNET: Final[dict[str, Any]] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 128,
}
"""Smaller than the preset, so that a CPU does all items in seconds."""


def clip_config(*, is_tiny: bool, precision: Precision = "auto") -> ClipConfig:
    """CLIP L/14."""
    if is_tiny:
        return ClipConfig(name="preset:tiny/clip", precision=precision)
    return ClipConfig(name="ViT-L-14-quickgelu", pretrained=False, precision=precision)


def score_config(
    folder: Path, *, is_tiny: bool, batch_size: int, precision: Precision = "auto"
) -> ScoreConfig:
    """Similarity and the first aesthetic head, of random weights where the CLIP is."""
    weights = "preset:tiny/aesthetic.safetensors"
    if not is_tiny:
        weights = str(folder / "head.safetensors")
        random = torch.Generator().manual_seed(0)
        weight = torch.randn(1, _CLIP_EMBED_DIM, generator=random)
        save_file({"weight": weight, "bias": torch.zeros(1)}, weights)
    clip = clip_config(is_tiny=is_tiny, precision=precision)
    return ScoreConfig(
        clip=ScoreClipConfig(**dict(clip)),
        aesthetic_v1=HeadConfig(weights=weights),
        batch_size=batch_size,
    )


def encode_config(*, is_tiny: bool, batch_size: int) -> EncodeConfig:
    """Stable Diffusion 1.5's autoencoder and text encoder."""
    if is_tiny:
        return EncodeConfig(
            autoencoder=AutoencoderConfig(model="preset:tiny/autoencoder"),
            text_encoder=TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
            batch_size=batch_size,
        )
    return EncodeConfig(
        autoencoder=AutoencoderConfig(model="sd-v1", pretrained=False),
        text_encoder=TextEncoderConfig(model="sd-v1", pretrained=False),
        batch_size=batch_size,
    )


def model_config(*, is_tiny: bool, precision: Precision = "auto") -> LatentDiffusionConfig:
    """Stable Diffusion 1.5; to be trained in `fp32`."""
    if is_tiny:
        return LatentDiffusionConfig(
            autoencoder=AutoencoderConfig(model="preset:tiny/autoencoder"),
            text_encoder=TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
            denoiser=DenoiserConfig(settings=_TINY_UNET, precision=precision),
        )
    return LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model="sd-v1", pretrained=False),
        text_encoder=TextEncoderConfig(model="sd-v1", pretrained=False),
        denoiser=DenoiserConfig(model="sd-v1", pretrained=False, precision=precision),
    )


@cache
def generator_models(device: torch.device, *, is_tiny: bool) -> GenerateModels:
    """To generate with."""
    return load_generate_models(GenerateConfig(model=model_config(is_tiny=is_tiny)), device=device)


@cache
def trained_model(device: torch.device, *, is_tiny: bool) -> LatentDiffusion:
    """To be trained."""
    return load_latent_diffusion(model_config(is_tiny=is_tiny, precision="fp32"), device=device)
