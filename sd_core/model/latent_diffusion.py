"""One latent diffusion model: autoencoder, text encoder, denoiser and noise schedule together.

Source: Rombach et al. 2022, arXiv:2112.10752; with two text encoders Podell et al. 2023,
arXiv:2307.01952.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sd_core.cache.spec import CacheIdentity, TextEncoderIdentity
from sd_core.model.autoencoder import Autoencoder, load_autoencoder
from sd_core.model.denoiser import load_denoiser, unwrap_module
from sd_core.model.denoiser_settings import check_channels, check_text_widths
from sd_core.model.latent_diffusion_config import (
    LatentDiffusionConfig,
    LatentDiffusionSections,
    sections_of,
)
from sd_core.model.latent_diffusion_sources import source_folders
from sd_core.model.noise_schedule import NoiseSchedule, build_noise_schedule
from sd_core.model.task import Task, check_task, task_of
from sd_core.model.text_encoder import TextEncoder, load_text_encoder
from sd_core.model.weights import WeightsError, loads_weights

__all__ = [
    "LatentDiffusion",
    "LatentDiffusionConfig",
    "load_latent_diffusion",
]

_TEXT_TO_IMAGE: Final[tuple[Task, ...]] = ("text_to_image",)


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
    """A loaded model. The encoders are frozen; the denoiser's parameters want gradients."""

    autoencoder: Autoencoder
    text_encoder: TextEncoder
    denoiser: nn.Module
    noise_schedule: NoiseSchedule
    text_encoder_2: TextEncoder | None = None
    """XL's second one."""
    low_res_noise_schedule: NoiseSchedule | None = None
    """Of an upscaler: of the noise that is put on its images of low resolution."""
    zeros_for_empty_prompt: bool = False
    """Of XL: an empty text to guide away from is zeros, not the encoded empty caption."""
    sections: LatentDiffusionSections | None = None
    """What it was loaded from, for saving parts that run in another precision."""
    sources: Mapping[str, Path] = field(default_factory=dict)
    """The diffusers folders of its parts, by subfolder: what is unchanged is saved as it was."""

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the denoiser was made for."""
        settings: Any = unwrap_module(self.denoiser).config
        side = int(settings["sample_size"])
        return self.autoencoder.latent_channels, side, side

    @property
    def task(self) -> Task:
        channels = self.autoencoder.latent_channels
        settings: Any = unwrap_module(self.denoiser).config
        return task_of(settings, latent_channels=channels) or "text_to_image"

    @property
    def identity(self) -> CacheIdentity:
        """What a latent cache must share with it.

        With two text encoders the second is part of the identity: hashes of both, widths added.
        """
        text_encoder = self.text_encoder.identity
        if self.text_encoder_2 is not None:
            text_encoder = _both(text_encoder, self.text_encoder_2.identity)
        return CacheIdentity(autoencoder=self.autoencoder.identity, text_encoder=text_encoder)


@loads_weights
def load_latent_diffusion(
    config: LatentDiffusionConfig,
    *,
    device: str | torch.device,
    tasks: Collection[Task] = _TEXT_TO_IMAGE,
) -> LatentDiffusion:
    """Load or build every part, and check that they fit each other.

    Args:
        config: Which model.
        device: Where it runs.
        tasks: What the caller can do; a denoiser for anything else is refused.

    Raises:
        WeightsError: weights cannot be had, are of another architecture, or do not fit.
    """
    sections = sections_of(config)
    second, low_res = sections.text_encoder_2, sections.low_res_noise_schedule
    model = LatentDiffusion(
        autoencoder=load_autoencoder(sections.autoencoder, device=device),
        text_encoder=load_text_encoder(sections.text_encoder, device=device),
        denoiser=load_denoiser(sections.denoiser, device=device),
        noise_schedule=build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler),
        text_encoder_2=None if second is None else load_text_encoder(second, device=device),
        low_res_noise_schedule=None
        if low_res is None
        else build_noise_schedule(low_res, scheduler=sections.low_res_scheduler),
        zeros_for_empty_prompt=sections.zeros_for_empty_prompt,
        sections=sections,
        sources=source_folders(sections),
    )
    _check_fit(model, tasks)
    return model


def _check_fit(model: LatentDiffusion, tasks: Collection[Task]) -> None:
    settings: Any = unwrap_module(model.denoiser).config
    first, second = model.text_encoder, model.text_encoder_2
    channels = model.autoencoder.latent_channels
    check_task(settings, latent_channels=channels, allowed=tasks)
    check_channels(settings, latent_channels=channels)
    widths = [first.embed_dim, *([second.embed_dim] if second else [])]
    check_text_widths(settings, widths)
    if second and second.tokenizer.get_vocab() != first.tokenizer.get_vocab():
        raise WeightsError("text_encoder_2: its vocabulary is not text_encoder's; one is needed")


def _both(first: TextEncoderIdentity, second: TextEncoderIdentity) -> TextEncoderIdentity:
    def joined(a: str, b: str) -> str:
        return hashlib.sha256(f"{a} {b}".encode()).hexdigest()

    return first.model_copy(
        update={
            "weights_sha256": joined(first.weights_sha256, second.weights_sha256),
            "tokenizer_sha256": joined(first.tokenizer_sha256, second.tokenizer_sha256),
            "embed_dim": first.embed_dim + second.embed_dim,
        }
    )
