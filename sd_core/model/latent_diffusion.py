"""One latent diffusion model: autoencoder, text encoder, denoiser and noise schedule together.

Source: Rombach et al. 2022, arXiv:2112.10752; with two text encoders Podell et al. 2023,
arXiv:2307.01952; with three Esser et al. 2024, arXiv:2403.03206.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sd_core.cache.spec import CacheIdentity, TextEncoderIdentity
from sd_core.model.autoencoder import Autoencoder, load_autoencoder
from sd_core.model.denoiser import load_denoiser, unwrap_module
from sd_core.model.denoiser_settings import check_channels, check_texts
from sd_core.model.latent_diffusion_config import (
    LatentDiffusionConfig,
    LatentDiffusionSections,
    sections_of,
)
from sd_core.model.latent_diffusion_sources import source_folders
from sd_core.model.noise_schedule import NoiseSchedule, build_noise_schedule
from sd_core.model.task import Task, check_task, task_of
from sd_core.model.text_encoder import MAX_SEQUENCE_LENGTH, TextEncoder, load_text_encoder
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
    text_encoders: Mapping[str, TextEncoder]
    """By their part of the folder, in order: `text_encoder` of most models, also `text_encoder_2`
    of XL, and `text_encoder_3`, a T5, of Stable Diffusion 3."""
    denoiser: nn.Module
    noise_schedule: NoiseSchedule
    max_sequence_length: int = MAX_SEQUENCE_LENGTH
    """Of Stable Diffusion 3 without T5: tokens of zeros that are attended to in its place."""
    low_res_noise_schedule: NoiseSchedule | None = None
    """Of an upscaler: of the noise that is put on its images of low resolution."""
    zeros_for_empty_prompt: bool = False
    """Of XL: an empty text to guide away from is zeros, not the encoded empty caption."""
    sections: LatentDiffusionSections | None = None
    """What it was loaded from, for saving parts that run in another precision."""
    sources: Mapping[str, Path] = field(default_factory=dict)
    """The diffusers folders of its parts, by subfolder: what is unchanged is saved as it was."""

    @property
    def text_encoder(self) -> TextEncoder:
        """The first one, whose tokenizer's ids a cache holds."""
        return next(iter(self.text_encoders.values()))

    @property
    def cached_encoders(self) -> Mapping[str, TextEncoder]:
        """Those that read the ids that a cache holds: all of the first one's kind."""
        kind = self.text_encoder.shape.kind
        return {part: one for part, one in self.text_encoders.items() if one.shape.kind == kind}

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents that the denoiser was made for."""
        settings: Any = unwrap_module(self.denoiser).config
        side = int(settings["sample_size"])
        return self.autoencoder.latent_channels, side, side

    @property
    def num_time_ids(self) -> int:
        """Sizes that it is conditioned on beside its text: 6 of XL, 5 of its refiner, else 0."""
        settings: Any = unwrap_module(self.denoiser).config
        if settings.get("addition_embed_type") != "text_time":
            return 0
        pooled = list(self.text_encoders.values())[-1].shape.pooled_dim
        width = int(settings["projection_class_embeddings_input_dim"]) - pooled
        return width // int(settings["addition_time_embed_dim"])

    @property
    def task(self) -> Task:
        channels = self.autoencoder.latent_channels
        settings: Any = unwrap_module(self.denoiser).config
        return task_of(settings, latent_channels=channels) or "text_to_image"

    @property
    def identity(self) -> CacheIdentity:
        """What a latent cache must share with it.

        With two CLIPs the second is part of the identity: hashes of both, widths added.
        """
        texts = [encoder.identity for encoder in self.cached_encoders.values()]
        return CacheIdentity(autoencoder=self.autoencoder.identity, text_encoder=_joined(texts))


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
    low_res = sections.low_res_noise_schedule
    model = LatentDiffusion(
        autoencoder=load_autoencoder(sections.autoencoder, device=device),
        text_encoders={
            part: load_text_encoder(section, device=device)
            for part, section in sections.text_encoders.items()
        },
        max_sequence_length=sections.max_sequence_length,
        denoiser=load_denoiser(sections.denoiser, device=device),
        noise_schedule=build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler),
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
    channels = model.autoencoder.latent_channels
    check_task(settings, latent_channels=channels, allowed=tasks)
    check_channels(settings, latent_channels=channels)
    check_texts(settings, {part: one.shape for part, one in model.text_encoders.items()})
    vocabulary = model.text_encoder.tokenizer.get_vocab()
    for part, encoder in model.cached_encoders.items():
        if encoder.tokenizer.get_vocab() != vocabulary:
            raise WeightsError(f"{part}: its vocabulary is not text_encoder's; one is needed")


def _joined(texts: Sequence[TextEncoderIdentity]) -> TextEncoderIdentity:
    if len(texts) == 1:
        return texts[0]

    def joined(hashes: Iterable[str]) -> str:
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    return texts[0].model_copy(
        update={
            "weights_sha256": joined(text.weights_sha256 for text in texts),
            "tokenizer_sha256": joined(text.tokenizer_sha256 for text in texts),
            "embed_dim": sum(text.embed_dim for text in texts),
        }
    )
