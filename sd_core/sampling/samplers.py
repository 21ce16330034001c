"""The samplers by name: diffusers' schedulers, set up from our noise schedule.

Sources: Song et al. 2020, arXiv:2010.02502 (DDIM); Liu et al. 2022, arXiv:2202.09778 (PNDM);
Karras et al. 2022, arXiv:2206.00364 (Euler, the sigmas' spacing); Lu et al. 2022,
arXiv:2211.01095 (DPM-Solver++); Zhao et al. 2023, arXiv:2302.04867 (UniPC); Luo et al. 2023,
arXiv:2310.04378 (LCM); Esser et al. 2024, arXiv:2403.03206 (Euler on a flow).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import diffusers

from sd_core.model.noise_schedule import NoiseSchedule, scheduler_of_noise_schedule

SamplerName = Literal[
    "ddim",
    "pndm",
    "euler",
    "euler_a",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "unipc",
    "lcm",
    "flow_euler",
]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """A scheduler class of diffusers and its own options."""

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    of_flow: bool = False
    zero_snr: bool = True
    draws_noise: bool = False


_RECIPES: dict[SamplerName, _Recipe] = {
    "ddim": _Recipe(scheduler="DDIMScheduler"),
    "pndm": _Recipe(scheduler="PNDMScheduler", options={"skip_prk_steps": True}, zero_snr=False),
    "euler": _Recipe(scheduler="EulerDiscreteScheduler"),
    "euler_a": _Recipe(scheduler="EulerAncestralDiscreteScheduler", draws_noise=True),
    "dpmpp_2m": _Recipe(scheduler="DPMSolverMultistepScheduler"),
    "dpmpp_2m_karras": _Recipe(
        scheduler="DPMSolverMultistepScheduler", options={"use_karras_sigmas": True}
    ),
    "unipc": _Recipe(scheduler="UniPCMultistepScheduler"),
    "lcm": _Recipe(scheduler="LCMScheduler", draws_noise=True),
    "flow_euler": _Recipe(scheduler="FlowMatchEulerDiscreteScheduler", of_flow=True),
}


def build_sampler(name: SamplerName, noise_schedule: NoiseSchedule) -> Any:
    """A fresh scheduler of diffusers, its steps not yet set.

    It is what `Scheduler.from_config(pipe.scheduler.config)` gives in a pipeline saved with this
    noise schedule: 'leading' timesteps with an offset of 1, 'trailing' with zero terminal SNR.

    Raises:
        ValueError: an unknown name, or a sampler that cannot follow this schedule.
    """
    if name not in _RECIPES:
        raise ValueError(f"sampler is {name!r}; allowed are {', '.join(SAMPLERS)}")
    recipe, config = _RECIPES[name], noise_schedule.config
    if recipe.of_flow != (config.prediction_type == "flow"):
        raise ValueError(
            f"sampler {name!r} does not go with prediction_type {config.prediction_type!r}; "
            f"allowed are {', '.join(samplers_of(noise_schedule))}"
        )
    if config.rescale_betas_zero_snr and not recipe.zero_snr:
        raise ValueError(
            f"sampler {name!r} cannot start where the signal is zero (rescale_betas_zero_snr); "
            f"allowed are {', '.join(samplers_of(noise_schedule))}"
        )
    family: Any = getattr(diffusers, recipe.scheduler)
    return family.from_config(scheduler_of_noise_schedule(config), **recipe.options)


def samplers_of(noise_schedule: NoiseSchedule) -> tuple[SamplerName, ...]:
    """The samplers that can follow a noise schedule."""
    config = noise_schedule.config
    return tuple(
        name
        for name, recipe in _RECIPES.items()
        if recipe.of_flow == (config.prediction_type == "flow")
        and (recipe.zero_snr or not config.rescale_betas_zero_snr)
    )


def draws_noise(name: SamplerName) -> bool:
    """Whether its steps draw noise of their own, and so need the rows' generators."""
    return _RECIPES[name].draws_noise
