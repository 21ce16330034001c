"""Everything that a model's files say, held against what is honoured, without loading it.

So that a job ends with one clear error before any worker has loaded a model.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sd_core.model.autoencoder import foresee_autoencoder
from sd_core.model.autoencoder_loading import autoencoder_settings
from sd_core.model.denoiser import check_denoiser_weights, denoiser_settings
from sd_core.model.denoiser_loading import build_empty
from sd_core.model.denoiser_settings import check_channels, check_texts
from sd_core.model.latent_diffusion_config import (
    LatentDiffusionConfig,
    LatentDiffusionSections,
    sections_of,
)
from sd_core.model.lora import LoraConfig, match_lora
from sd_core.model.single_file import is_single_file
from sd_core.model.task import Task, check_task
from sd_core.model.text_encoder import TextEncoderConfig, text_encoder_settings
from sd_core.model.text_encoder_architectures import (
    TEXT_ENCODER_ARCHITECTURES,
    build_text_model,
    is_t5,
    text_shape,
)
from sd_core.model.text_encoder_loading import read_layout, tokenizer_sha256
from sd_core.model.text_encoder_settings import token_length_of
from sd_core.model.weights import WeightsError


def check_latent_diffusion(
    config: LatentDiffusionConfig,
    *,
    tasks: Collection[Task],
    loras: Sequence[LoraConfig] = (),
    where: str = "loras",
    is_refiner: bool = False,
) -> LatentDiffusionSections:
    """Read every configuration of a model, and its LoRA files, and refuse what is not honoured.

    Args:
        config: Which model; of its weights only headers are read.
        tasks: What the caller can do; a denoiser for anything else is refused.
        loras: Files that will be added to it.
        where: Their key in the configuration.
        is_refiner: Whether it is to be one that finishes another model's images; no other may be.

    Returns:
        The model's parts, with what of its folder is left alone.

    Raises:
        WeightsError: something cannot be had, or a file says what is not honoured.
    """
    sections = sections_of(config)
    if sections.is_refiner != is_refiner:
        what = "XL's refiner" if sections.is_refiner else "no refiner of XL's"
        raise WeightsError(
            f"model: this is {what} (such a folder has a text_encoder_2 alone); a refiner is "
            "generate.refiner.model and nothing else"
        )
    denoiser = denoiser_settings(sections.denoiser)
    texts: dict[str, dict[str, Any] | None] = {
        part: text_encoder_settings(section) for part, section in sections.text_encoders.items()
    }
    autoencoder = autoencoder_settings(sections.autoencoder)
    if autoencoder is not None and "latent_channels" in autoencoder:
        channels = int(autoencoder["latent_channels"])
        check_task(denoiser, latent_channels=channels, allowed=tasks)
        check_channels(denoiser, latent_channels=channels)
    known = {part: settings for part, settings in texts.items() if settings is not None}
    if len(known) == len(texts):
        check_texts(denoiser, {part: text_shape(settings) for part, settings in known.items()})
    check_denoiser_weights(sections.denoiser)
    if loras and len(known) == len(texts):
        parts = _empty_parts(denoiser, known)
        for number, lora in enumerate(loras):
            match_lora(lora, parts, where=f"{where}.{number}.model")
    return sections


def foreseen_identity(sections: LatentDiffusionSections) -> dict[str, Any]:
    """What of a model's identity its files tell without loading it, as `check_identity` takes it.

    Raises:
        WeightsError: as `check_latent_diffusion`.
    """
    text = _text_identity(sections.text_encoder)
    if len(sections.text_encoders) > 1:  # several are hashed together
        text = {n: value for n, value in text.items() if n in ("token_length", "pad_token_id")}
    parts = {"autoencoder": foresee_autoencoder(sections.autoencoder), "text_encoder": text}
    return {f"{part}.{n}": value for part, told in parts.items() for n, value in told.items()}


def _text_identity(config: TextEncoderConfig) -> dict[str, Any]:
    """What a diffusers folder tells of its text encoder's; nothing where it is no folder."""
    model, where = str(config.model), f"{config.part}.model"
    is_named = config.clip is not None or model in TEXT_ENCODER_ARCHITECTURES
    if is_named or is_single_file(model, where=where):
        return {}
    settings, tokenizer = read_layout(model, part=config.part, where=where)
    return {
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "token_length": token_length_of(tokenizer, settings),
        "embed_dim": text_shape(settings).embed_dim,
        "pad_token_id": int(tokenizer.pad_token_id),
    }


def _empty_parts(
    denoiser: dict[str, Any], texts: Mapping[str, dict[str, Any]]
) -> dict[str, nn.Module]:
    """The layers that LoRA files change, without values where they can be without."""
    with torch.device("meta"):
        parts = {"unet": build_empty(denoiser, where="denoiser.model")}
    return parts | {
        part: build_text_model(settings, seed=None)
        for part, settings in texts.items()
        if not is_t5(settings)
    }
