"""What a model's configuration tells before its weights are read: which defaults cannot work, and
which settings of rows it has no use for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.config import ConfigError
from pipelines.stages.generate.config import GenerateConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.denoiser_loading import ARCHITECTURES
from sd_core.model.latent_diffusion_config import sections_of
from sd_core.model.noise_schedule import NoiseSchedule, build_noise_schedule
from sd_core.model.single_file import is_single_file
from sd_core.model.weights import join_reference, resolve_weights
from sd_core.sampling.samplers import samplers_of
from sd_core.sampling.steps_limit import StepsLimit

_IMAGE_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class ForeseenModel:
    """What the configuration says of the model that will be loaded.

    Attributes:
        enlarges: Whether it is one of upscaling, which starts from noise alone.
        embeds_guidance: Whether its denoiser is told the guidance scale, and guides itself.
    """

    noise_schedule: NoiseSchedule
    enlarges: bool
    embeds_guidance: bool


def foresee_model(config: GenerateConfig) -> ForeseenModel:
    """Read the model's configuration; raises `WeightsError` where it cannot be read."""
    sections = sections_of(config.model)
    settings = _denoiser_settings(sections.denoiser)
    channels = [settings.get(name, 0) for name in ("in_channels", "out_channels")]
    return ForeseenModel(
        noise_schedule=build_noise_schedule(sections.noise_schedule),
        enlarges=channels[0] - channels[1] == _IMAGE_CHANNELS,
        embeds_guidance=embeds_guidance(settings),
    )


def embeds_guidance(settings: Mapping[str, Any]) -> bool:
    """Whether a denoiser of this configuration takes the guidance scale as an input."""
    return settings.get("time_cond_proj_dim") is not None


def check_defaults(config: GenerateConfig, model: ForeseenModel) -> None:
    """Refuse defaults that no row could use.

    Raises:
        ConfigError: naming the default, what was found and what is allowed.
    """
    defaults, allowed = config.defaults, samplers_of(model.noise_schedule)
    if defaults.sampler not in allowed:
        raise ConfigError(
            f"generate.defaults.sampler: found {defaults.sampler!r}, which does not go with the "
            f"model's noise schedule; allowed: {', '.join(allowed)}"
        )
    steps = StepsLimit(noise_schedule=model.noise_schedule)
    fault = steps.fault(defaults.sampler, defaults.num_inference_steps)
    if fault is not None:
        raise ConfigError(f"generate.defaults.num_inference_steps: {fault}")


def _denoiser_settings(config: DenoiserConfig) -> Mapping[str, Any]:
    """Its diffusers configuration; empty for a single file without a layout."""
    if config.settings is not None:
        return config.settings
    if config.model in ARCHITECTURES:
        return ARCHITECTURES[config.model]
    reference = str(config.layout or config.model)
    if is_single_file(reference, where="denoiser"):
        return {}
    path = resolve_weights(join_reference(reference, "config.json"), where="denoiser")
    settings: dict[str, Any] = json.loads(path.read_text())
    return settings
