"""Everything that a model's files say, held against what is honoured, without its weights.

So that a job ends with one clear error before any worker has loaded a model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sd_core.model.autoencoder_loading import autoencoder_settings
from sd_core.model.denoiser import denoiser_settings
from sd_core.model.denoiser_loading import build_empty
from sd_core.model.denoiser_settings import check_channels
from sd_core.model.latent_diffusion_config import (
    LatentDiffusionConfig,
    LatentDiffusionSections,
    sections_of,
)
from sd_core.model.lora import LoraConfig, match_lora
from sd_core.model.text_encoder import text_encoder_settings
from sd_core.model.text_encoder_architectures import build_text_model


def check_latent_diffusion(
    config: LatentDiffusionConfig, *, loras: Sequence[LoraConfig] = (), where: str = "loras"
) -> LatentDiffusionSections:
    """Read every configuration of a model, and its LoRA files, and refuse what is not honoured.

    Args:
        config: Which model; its weights are not read.
        loras: Files that will be added to it.
        where: Their key in the configuration.

    Returns:
        The model's parts, with what of its folder is left alone.

    Raises:
        WeightsError: something cannot be had, or a file says what is not honoured.
    """
    sections = sections_of(config)
    denoiser = denoiser_settings(sections.denoiser)
    texts: dict[str, dict[str, Any] | None] = {
        section.part: text_encoder_settings(section)
        for section in (sections.text_encoder, sections.text_encoder_2)
        if section is not None
    }
    autoencoder = autoencoder_settings(sections.autoencoder)
    if autoencoder is not None and "latent_channels" in autoencoder:
        check_channels(denoiser, latent_channels=int(autoencoder["latent_channels"]))
    if loras and all(settings is not None for settings in texts.values()):
        parts = _empty_parts(denoiser, texts)
        for number, lora in enumerate(loras):
            match_lora(lora, parts, where=f"{where}.{number}.model")
    return sections


def _empty_parts(
    denoiser: dict[str, Any], texts: Mapping[str, dict[str, Any] | None]
) -> dict[str, nn.Module]:
    """The layers that LoRA files change, without values where they can be without."""
    with torch.device("meta"):
        parts = {"unet": build_empty(denoiser, where="denoiser.model")}
    return parts | {
        part: build_text_model(settings, seed=None)
        for part, settings in texts.items()
        if settings is not None
    }
