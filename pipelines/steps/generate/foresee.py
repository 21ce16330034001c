"""What a model's files tell before a worker loads it: whether all that they say is honoured, which
defaults cannot work, and which settings of rows it has no use for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from pipelines.config import ConfigError
from pipelines.steps.generate.config import GenerateConfig, RefinerConfig
from pipelines.steps.generate.init_images import InitImages
from pipelines.steps.generate.source_pictures import SourcePictures
from sd_core.model.autoencoder import foresee_autoencoder
from sd_core.model.denoiser import denoiser_settings
from sd_core.model.denoisers import DENOISERS
from sd_core.model.latent_diffusion_check import check_latent_diffusion, foreseen_identity
from sd_core.model.latent_diffusion_config import LatentDiffusionSections
from sd_core.model.noise_schedule import NoiseSchedule, build_noise_schedule, low_res_schedule
from sd_core.model.task import Task
from sd_core.model.weights import WeightsError
from sd_core.sampling.samplers import SamplerName, build_sampler, sampler_of_folder, samplers_of
from sd_core.sampling.steps_limit import StepsLimit
from sd_core.say import Say

_IMAGE_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class ForeseenModel:
    """What the files say of the model that will be loaded.

    Attributes:
        sections: Its parts.
        sampler: Of rows that name none.
        enlarges: Whether it is one of upscaling, which starts from noise alone.
        embeds_guidance: Whether its denoiser is told the guidance scale, and guides itself.
        stores_text: Whether a cache can hold the text that it attends to.
    """

    sections: LatentDiffusionSections
    noise_schedule: NoiseSchedule
    sampler: SamplerName
    enlarges: bool
    embeds_guidance: bool
    stores_text: bool


def foresee_model(config: GenerateConfig, *, say: Say) -> ForeseenModel:
    """Hold all that the model's files say against what is honoured; what is passed over is said.

    Raises:
        ConfigError: a file cannot be read, says what is not honoured, or names a sampler that is
            none of ours.
    """
    try:
        sections = check_latent_diffusion(
            config.model, tasks=get_args(Task), loras=config.loras, where="generate.loras"
        )
        schedule = build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler)
        sampler = config.defaults.sampler or own_sampler(schedule)
        settings = denoiser_settings(sections.denoiser)
    except (WeightsError, ValueError) as error:
        raise ConfigError(f"generate.model: {error}") from error
    if is_guided := embeds_guidance(settings):
        say(
            "the model takes the scale of guidance as an input (time_cond_proj_dim): negative "
            "prompts do nothing"
        )
    for notice in sections.notices:
        say(notice)
    channels = [settings.get(name, 0) for name in ("in_channels", "out_channels")]
    return ForeseenModel(
        sections=sections,
        noise_schedule=schedule,
        sampler=sampler,
        enlarges=channels[0] - channels[1] == _IMAGE_CHANNELS,
        embeds_guidance=is_guided,
        stores_text=DENOISERS[settings["_class_name"]].joins_side_by_side,
    )


def embeds_guidance(settings: Mapping[str, Any]) -> bool:
    """Whether a denoiser of this configuration takes the guidance scale as an input."""
    return settings.get("time_cond_proj_dim") is not None


def own_sampler(schedule: NoiseSchedule) -> SamplerName:
    """The sampler that the model's own scheduler is; raises `ConfigError` where it is none."""
    try:
        return sampler_of_folder(schedule)
    except WeightsError as error:
        raise ConfigError(f"generate.defaults.sampler: not set, and the model's {error}") from error


def check_defaults(config: GenerateConfig, model: ForeseenModel) -> None:
    """Refuse defaults that no row could use.

    Raises:
        ConfigError: naming the default, what was found and what is allowed.
    """
    defaults, allowed = config.defaults, samplers_of(model.noise_schedule)
    if model.sampler not in allowed:
        raise ConfigError(
            f"generate.defaults.sampler: found {model.sampler!r}, which does not go with the "
            f"model's noise schedule; allowed: {', '.join(allowed)}"
        )
    try:
        build_sampler(model.sampler, model.noise_schedule)
    except (WeightsError, ValueError) as error:
        raise ConfigError(f"generate.model: {error}") from error
    steps = StepsLimit(noise_schedule=model.noise_schedule)
    fault = steps.fault(model.sampler, defaults.num_inference_steps)
    if fault is not None:
        raise ConfigError(f"generate.defaults.num_inference_steps: {fault}")
    if model.embeds_guidance and config.guidance_rescale > 0:
        raise ConfigError(
            f"generate.guidance_rescale: found {config.guidance_rescale}, allowed is 0: the model "
            "takes the scale of guidance as an input (time_cond_proj_dim), so nothing is rescaled"
        )
    if model.enlarges:
        _check_noise_level(config.noise_level, model.sections)
    _check_stored_text(config, model)
    if config.refiner is not None:
        _check_refiner(config, config.refiner, model)


def _check_refiner(config: GenerateConfig, refiner: RefinerConfig, model: ForeseenModel) -> None:
    """It must go on from the model's own latents, at the level of noise where it leaves them."""
    try:
        sections = check_latent_diffusion(refiner.model, tasks=["text_to_image"], is_refiner=True)
        schedule = build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler)
        latents = [_latents_of(one) for one in (model.sections, sections)]
    except (WeightsError, ValueError) as error:
        raise ConfigError(f"generate.refiner.{error}") from error
    for name in latents[0].keys() & latents[1].keys():
        if latents[0][name] != latents[1][name]:
            raise ConfigError(
                f"generate.refiner.model: its autoencoder's {name} is {latents[1][name]}, and the "
                f"model's {latents[0][name]}; it goes on from the same latents only"
            )
    if not torch.equal(schedule.alphas_cumprod, model.noise_schedule.alphas_cumprod):
        raise ConfigError(
            "generate.refiner.model: its noise schedule is not the model's (num_train_timesteps, "
            "beta_start, beta_end, beta_schedule): it would take over at another level of noise"
        )
    if model.sampler not in samplers_of(schedule):
        raise ConfigError(
            f"generate.defaults.sampler: found {model.sampler!r}, which does not go with the "
            f"refiner's noise schedule; allowed: {', '.join(samplers_of(schedule))}"
        )
    if config.init is not None or model.enlarges:
        raise ConfigError(
            "generate.refiner: it finishes images that begin with noise; leave it out with "
            "generate.init, and with a model of upscaling or inpainting"
        )


def _latents_of(sections: LatentDiffusionSections) -> dict[str, Any]:
    """What makes latents mean the same, whoever's weights decode them."""
    names = ("kind", "scaling_factor", "shift_factor", "latent_channels", "downsampling")
    told = foresee_autoencoder(sections.autoencoder)
    return {name: told[name] for name in names if name in told}


def _check_stored_text(config: GenerateConfig, model: ForeseenModel) -> None:
    """A cache holds one text as wide as its identity says, and no T5's behind it."""
    is_stored = config.latents is not None and config.latents.prompt_embeds
    if is_stored and not model.stores_text:
        raise ConfigError(
            "generate.latents.prompt_embeds: found true; a cache cannot hold the text "
            f"of {', '.join(model.sections.text_encoders)} that this model attends to; allowed: "
            "false, which stores the latents and the first one's token ids"
        )


def _check_noise_level(level: int, sections: LatentDiffusionSections) -> None:
    found = sections.low_res_noise_schedule
    scheduler = sections.low_res_scheduler
    own = None if found is None else build_noise_schedule(found, scheduler=scheduler)
    highest = len(low_res_schedule(own).alphas_cumprod) - 1
    if sections.max_noise_level is not None:
        highest = min(highest, sections.max_noise_level)
    if level > highest:
        raise ConfigError(
            f"generate.noise_level: {level} is above the model's schedule or its "
            f"max_noise_level; allowed: 0 to {highest}"
        )


def check_init(config: GenerateConfig, model: ForeseenModel) -> None:
    """Refuse a run that the images cannot start from.

    Raises:
        ConfigError: its cache or its images are not there, or the cache is of another model.
    """
    if config.init is not None and model.enlarges:
        SourcePictures(config.init, enlargement=1)
    elif config.init is not None:
        InitImages(config.init, foreseen_identity(model.sections))
