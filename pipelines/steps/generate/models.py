"""The loaded model of a generation, and what its images are recorded to be made with."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch

from pipelines.run.versions import describe_program
from pipelines.steps.generate.config import GenerateConfig
from pipelines.steps.generate.foresee import embeds_guidance, own_sampler
from pipelines.steps.generate.rows import ModelLimits
from sd_core.cache.samples import EmptyCaption
from sd_core.cache.spec import CacheSpec
from sd_core.model.buckets import Bucket, sort_buckets
from sd_core.model.compiling import check_compiler
from sd_core.model.denoiser import unwrap_module
from sd_core.model.latent_diffusion import LatentDiffusion, load_latent_diffusion
from sd_core.model.lora import fuse_loras
from sd_core.model.task import Task
from sd_core.model.text_conditioning import encode_cached_captions
from sd_core.model.weights import WeightsError, loads_weights, weights_sha256
from sd_core.sampling.preparation import prepare_for_sampling
from sd_core.sampling.samplers import SamplerName, build_sampler, samplers_of
from sd_core.sampling.steps_limit import StepsLimit


@dataclass(frozen=True, kw_only=True)
class GenerateModels:
    """A model on one device, with the hashes that name it."""

    model: LatentDiffusion
    name: str
    denoiser_sha256: str
    device: torch.device
    refiner: LatentDiffusion | None = None
    refiner_sha256: str | None = None
    """Of its denoiser."""

    @property
    def model_sha256(self) -> str:
        identity = self.model.identity
        parts = [
            self.denoiser_sha256,
            identity.autoencoder.weights_sha256,
            identity.text_encoder.weights_sha256,
            *self._further.values(),
        ]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    @property
    def _further(self) -> dict[str, str]:
        """Hashes of what is not in the cache's identity: a T5, and a refiner's parts."""
        encoders, cached = self.model.text_encoders, self.model.cached_encoders
        found = {part: encoders[part].weights_sha256 for part in encoders if part not in cached}
        if self.refiner is None or self.refiner_sha256 is None:
            return found
        text = self.refiner.identity.text_encoder.weights_sha256
        return {**found, "refiner": self.refiner_sha256, "refiner_text_encoder": text}

    @property
    def native_px(self) -> int:
        """The side of the images that the denoiser was made for."""
        return self.model.latents_shape[1] * self.model.autoencoder.downsampling

    def limits(self, config: GenerateConfig) -> ModelLimits:
        """What rows may ask for."""
        settings: Any = unwrap_module(self.model.denoiser).config
        return ModelLimits(
            downsampling=self.model.autoencoder.downsampling * int(settings.get("patch_size") or 1),
            native_px=self.native_px,
            max_side_px=min(config.max_side_px, self._largest_px(settings)),
            samplers=self._samplers,
            sampler=config.defaults.sampler or own_sampler(self.model.noise_schedule),
            task=self.model.task,
            steps=StepsLimit(noise_schedule=self.model.noise_schedule),
            embeds_guidance=embeds_guidance(settings),
        )

    @property
    def _samplers(self) -> Sequence[SamplerName]:
        """Those that can follow both models' schedules."""
        models = [self.model, *([] if self.refiner is None else [self.refiner])]
        allowed = [set(samplers_of(model.noise_schedule)) for model in models]
        return [name for name in samplers_of(models[0].noise_schedule) if name in allowed[-1]]

    def _largest_px(self, settings: Mapping[str, Any]) -> int:
        """A transformer may know no more positions than a table of them has."""
        patches = settings.get("pos_embed_max_size")
        if patches is None:
            return sys.maxsize
        return int(patches) * int(settings["patch_size"]) * self.model.autoencoder.downsampling

    def describe(self) -> dict[str, Any]:
        """For the run's record: another worker must have the same."""
        identity = self.model.identity
        return {
            "device": self.device.type,
            "dtype": str(next(self.model.denoiser.parameters()).dtype),
            "denoiser": self.denoiser_sha256,
            "autoencoder": identity.autoencoder.weights_sha256,
            "text_encoder": identity.text_encoder.weights_sha256,
            "tokenizer": identity.text_encoder.tokenizer_sha256,
            **self._further,
        }

    def scheduler(self, sampler: SamplerName) -> tuple[str, str]:
        """The diffusers class of a sampler, and the sha256 of its configuration."""
        scheduler = build_sampler(sampler, self.model.noise_schedule)
        settings = {name: value for name, value in scheduler.config.items() if name[0] != "_"}
        text = json.dumps([type(scheduler).__name__, settings], sort_keys=True, default=str)
        return type(scheduler).__name__, hashlib.sha256(text.encode()).hexdigest()


@loads_weights
def load_generate_models(config: GenerateConfig, *, device: str | torch.device) -> GenerateModels:
    """Load the model.

    Raises:
        WeightsError: it cannot be loaded.
        CompilerError: it is to be compiled, and there is nothing to compile with.
    """
    if config.compile:
        check_compiler("generate.compile", device=device)
    model = load_latent_diffusion(config.model, device=device, tasks=get_args(Task))
    model = fuse_loras(model, config.loras, where="generate.loras")
    denoiser_sha256 = weights_sha256(unwrap_module(model.denoiser))
    refiner, refiner_sha256 = None, None
    if config.refiner is not None:
        refiner = load_latent_diffusion(config.refiner.model, device=device)
        refiner_sha256 = weights_sha256(unwrap_module(refiner.denoiser))
        refiner = _prepared(refiner, config)
    return GenerateModels(
        model=_prepared(model, config),
        name=config.describe_models(),
        denoiser_sha256=denoiser_sha256,
        device=torch.device(device),
        refiner=refiner,
        refiner_sha256=refiner_sha256,
    )


def _prepared(model: LatentDiffusion, config: GenerateConfig) -> LatentDiffusion:
    model.denoiser.requires_grad_(False)
    return prepare_for_sampling(
        model,
        compile=config.compile,
        channels_last=config.channels_last,
        cuda_graphs=config.cuda_graphs,
    )


def describe_versions() -> str:
    """The libraries that an image depends on, as one line of JSON."""
    return json.dumps(describe_program()["versions"], sort_keys=True)


def describe_generated_cache(models: GenerateModels, config: GenerateConfig) -> CacheSpec | None:
    """The spec of the cache that the latents come to; None where none is asked for."""
    stored = config.latents
    if stored is None:
        return None
    buckets = sort_buckets([Bucket(width=width, height=height) for width, height in stored.sizes])
    factor = models.model.autoencoder.downsampling
    for side in (side for size in buckets for side in (size.width, size.height)):
        if side % factor:
            raise WeightsError(
                f"generate.latents.sizes: {side} is no multiple of {factor}, the down-sampling of "
                "the model's autoencoder"
            )
    return CacheSpec(
        schema_version=2 if buckets else 1,
        identity=models.model.identity,
        form="mean",
        dtype=stored.dtype,
        format=stored.format,
        resolution_px=None if buckets else models.native_px,
        buckets=tuple((size.width, size.height) for size in buckets),
        prompt_embeds=stored.prompt_embeds,
        sources={"generated_by": models.name},
    )


def empty_caption_of(models: GenerateModels) -> EmptyCaption:
    """The encoded empty caption that the cache holds once, by the encoders of its identity."""
    encoded = encode_cached_captions(models.model, [""])
    return EmptyCaption(
        input_ids=encoded.input_ids[0].numpy(),
        prompt_embeds=encoded.prompt_embeds[0].numpy(),
        pooled_prompt_embeds=encoded.pooled_prompt_embeds[0].numpy(),
    )
