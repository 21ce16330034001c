"""One latent diffusion model: autoencoder, text encoder, denoiser and noise schedule together.

Source: Rombach et al. 2022, arXiv:2112.10752; with two text encoders Podell et al. 2023,
arXiv:2307.01952.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from sd_core.cache.spec import AutoencoderIdentity, CacheIdentity, TextEncoderIdentity
from sd_core.model.autoencoder import Autoencoder, AutoencoderConfig, load_autoencoder
from sd_core.model.config import ModelConfig
from sd_core.model.denoiser import DenoiserConfig, load_denoiser, unwrap_module
from sd_core.model.latent_diffusion_folder import pipeline_contents
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.noise_schedule import (
    NoiseSchedule,
    NoiseScheduleConfig,
    build_noise_schedule,
)
from sd_core.model.precision import Precision
from sd_core.model.text_encoder import TextEncoder, TextEncoderConfig, load_text_encoder
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    join_reference,
    public_reference,
)

__all__ = [
    "LatentDiffusion",
    "LatentDiffusionConfig",
    "load_latent_diffusion",
    "save_latent_diffusion",
]


class LatentDiffusionConfig(ModelConfig):
    """Which model: a whole one by `model`, or its parts by the other sections."""

    model: str | None = None
    """A reference to a diffusers pipeline folder (`hub:org/name@revision`, `/a/folder`)."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of `model`."""
    precision: Precision = "auto"
    """Of all parts of `model`; sections have their own."""
    autoencoder: AutoencoderConfig | None = None
    text_encoder: TextEncoderConfig | None = None
    text_encoder_2: TextEncoderConfig | None = None
    """XL's second one."""
    denoiser: DenoiserConfig | None = None
    noise_schedule: NoiseScheduleConfig | None = None
    """With `model`: instead of its own; with sections: Stable Diffusion's where left out."""

    @model_validator(mode="after")
    def _check(self) -> "LatentDiffusionConfig":
        parts = {
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
            "denoiser": self.denoiser,
        }
        named = [name for name, section in parts.items() if section is not None]
        if self.model is None:
            missing = [name for name in parts if name not in named]
            if missing:
                raise ValueError(f"set model, or also the section(s) {', '.join(missing)}")
        elif named or self.text_encoder_2 is not None:
            raise ValueError(
                f"model names a whole model; leave out {', '.join(named) or 'text_encoder_2'}, or "
                "leave out model and write each section"
            )
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.model is not None:
            index = join_reference(self.model, "model_index.json")
            return [WeightsNeed(f"{where}.model", index)]
        needs: list[WeightsNeed] = []
        for name in ("autoencoder", "text_encoder", "text_encoder_2", "denoiser"):
            section = getattr(self, name)
            needs += [] if section is None else section.weight_needs(f"{where}.{name}")
        return needs

    def describe(self) -> str:
        """One line for people."""
        if self.model is not None:
            return public_reference(self.model)
        sections = (self.autoencoder, self.text_encoder, self.text_encoder_2, self.denoiser)
        return "; ".join(section.describe() for section in sections if section is not None)


@dataclass(frozen=True, kw_only=True)
class LatentDiffusion:
    """A loaded model. The encoders are frozen; the denoiser's parameters want gradients."""

    autoencoder: Autoencoder
    text_encoder: TextEncoder
    denoiser: nn.Module
    noise_schedule: NoiseSchedule
    text_encoder_2: TextEncoder | None = None

    @property
    def identity(self) -> CacheIdentity:
        """What a latent cache must share with it.

        With two text encoders the second is part of the identity: hashes of both, widths added.
        """
        text_encoder = _text_identity(self.text_encoder)
        if self.text_encoder_2 is not None:
            text_encoder = _both(text_encoder, _text_identity(self.text_encoder_2))
        return CacheIdentity(
            autoencoder=AutoencoderIdentity(
                kind=self.autoencoder.kind,
                weights_sha256=self.autoencoder.weights_sha256,
                scaling_factor=self.autoencoder.scaling_factor,
                shift_factor=self.autoencoder.shift_factor,
                latent_channels=self.autoencoder.latent_channels,
                downsampling=self.autoencoder.downsampling,
            ),
            text_encoder=text_encoder,
        )


@dataclass(frozen=True, kw_only=True)
class _Sections:
    autoencoder: AutoencoderConfig
    text_encoder: TextEncoderConfig
    text_encoder_2: TextEncoderConfig | None
    denoiser: DenoiserConfig
    noise_schedule: NoiseScheduleConfig


def load_latent_diffusion(
    config: LatentDiffusionConfig, *, device: str | torch.device
) -> LatentDiffusion:
    """Load or build every part, and check that they fit each other.

    Raises:
        WeightsError: weights cannot be had, are of another architecture, or do not fit.
    """
    sections = _sections(config)
    second = sections.text_encoder_2
    model = LatentDiffusion(
        autoencoder=load_autoencoder(sections.autoencoder, device=device),
        text_encoder=load_text_encoder(sections.text_encoder, device=device),
        denoiser=load_denoiser(sections.denoiser, device=device),
        noise_schedule=build_noise_schedule(sections.noise_schedule),
        text_encoder_2=None if second is None else load_text_encoder(second, device=device),
    )
    _check_fit(model)
    return model


def _sections(config: LatentDiffusionConfig) -> _Sections:
    if config.model is None:
        if not (config.autoencoder and config.text_encoder and config.denoiser):
            raise WeightsError("model: neither a whole model nor all of its sections are named")
        return _Sections(
            autoencoder=config.autoencoder,
            text_encoder=config.text_encoder,
            text_encoder_2=config.text_encoder_2,
            denoiser=config.denoiser,
            noise_schedule=config.noise_schedule or NoiseScheduleConfig(),
        )
    contents = pipeline_contents(config.model, sha256=config.sha256)
    precision = config.precision
    return _Sections(
        autoencoder=AutoencoderConfig(
            model=join_reference(config.model, "vae"), precision=precision
        ),
        text_encoder=TextEncoderConfig(model=config.model, precision=precision),
        text_encoder_2=None,
        denoiser=DenoiserConfig(
            model=join_reference(config.model, contents.denoiser), precision=precision
        ),
        noise_schedule=config.noise_schedule or contents.noise_schedule,
    )


def _check_fit(model: LatentDiffusion) -> None:
    settings: Any = unwrap_module(model.denoiser).config
    channels, latent_channels = settings["in_channels"], model.autoencoder.latent_channels
    if channels != latent_channels:
        raise WeightsError(
            f"denoiser: takes {channels} channels, and the autoencoder's latents have "
            f"{latent_channels}; the two are not of one model"
        )
    expected = settings.get("caption_channels") or settings["cross_attention_dim"]
    second = model.text_encoder_2
    width = model.text_encoder.embed_dim + (second.embed_dim if second else 0)
    if expected != width:
        raise WeightsError(
            f"denoiser: attends to text of width {expected}, and the text encoder gives {width}; "
            "the two are not of one model"
        )


def _text_identity(encoder: TextEncoder) -> TextEncoderIdentity:
    return TextEncoderIdentity(
        weights_sha256=encoder.weights_sha256,
        tokenizer_sha256=encoder.tokenizer_sha256,
        token_length=encoder.token_length,
        embed_dim=encoder.embed_dim,
        pad_token_id=encoder.pad_token_id,
    )


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
