"""What of a model folder decides how its images are sampled, beside its weights."""

from dataclasses import dataclass, replace
from typing import Any, Final

from sd_core.model.denoiser import denoiser_settings
from sd_core.model.latent_diffusion_config import LatentDiffusionConfig, sections_of
from sd_core.model.noise_schedule import NoiseSchedule, build_noise_schedule
from sd_core.model.settings_check import SettingsError
from sd_core.sampling.samplers import SamplerName, build_sampler, sampler_of_folder, samplers_of

_BEFORE: Final[tuple[SamplerName, ...]] = (
    "ddim",
    "pndm",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "unipc",
    "lcm",
    "flow_euler",
)
"""The samplers of earlier versions, which did not follow the folder."""


@dataclass(frozen=True, kw_only=True)
class FolderTraits:
    """The sampler that the folder names, and what of it earlier versions passed over.

    Attributes:
        sampler: None where the folder's is none of ours.
        passed_over: Names, none for a folder that then and now gives the same images: so that runs
            of such a folder go on, and others do not mix two kinds of images.
    """

    sampler: SamplerName | None
    passed_over: tuple[str, ...]


def folder_traits(config: LatentDiffusionConfig) -> FolderTraits:
    """Read a model's index and schedulers.

    Raises:
        WeightsError: they cannot be had.
    """
    sections = sections_of(config)
    schedule = build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler)
    found = {
        "scheduler": _differs(schedule),
        "empty_prompt": sections.zeros_for_empty_prompt,
        "guidance": denoiser_settings(sections.denoiser).get("time_cond_proj_dim") is not None,
    }
    return FolderTraits(
        sampler=_sampler(schedule),
        passed_over=tuple(name for name, is_there in found.items() if is_there),
    )


def _sampler(schedule: NoiseSchedule) -> SamplerName | None:
    try:
        return sampler_of_folder(schedule)
    except SettingsError:
        return None


def _differs(schedule: NoiseSchedule) -> bool:
    """Whether the folder sets any earlier sampler up otherwise than its noise alone does."""
    if schedule.scheduler is None:
        return False
    plain = replace(schedule, scheduler=None)
    names = [name for name in samplers_of(schedule) if name in _BEFORE]
    return any(_config(name, schedule) != _config(name, plain) for name in names)


def _config(name: SamplerName, schedule: NoiseSchedule) -> dict[str, Any]:
    scheduler = build_sampler(name, schedule)
    known = type(scheduler)._get_init_keys(type(scheduler))
    return {key: value for key, value in scheduler.config.items() if key in known}
