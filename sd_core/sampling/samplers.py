"""The samplers by name: diffusers' schedulers, set up from a model folder's own, or from our noise
schedule where no folder says how to sample.

Sources: Song et al. 2020, arXiv:2010.02502 (DDIM); Ho et al. 2020, arXiv:2006.11239 (DDPM); Liu et
al. 2022, arXiv:2202.09778 (PNDM); Karras et al. 2022, arXiv:2206.00364 (Euler, Heun, the sigmas'
spacing); Lu et al. 2022, arXiv:2211.01095 (DPM-Solver++); Zhao et al. 2023,
arXiv:2302.04867 (UniPC); Luo et al. 2023, arXiv:2310.04378 (LCM); Esser et al. 2024,
arXiv:2403.03206 (Euler on a flow).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator

from sd_core.model.scheduler_settings import check_scheduler_settings
from sd_core.model.settings_check import SettingsError, constructor_defaults
from sd_core.tables import NameIn

if TYPE_CHECKING:
    from sd_core.model.noise_schedule import NoiseSchedule

_MULTISTEP: Final = "DPMSolverMultistepScheduler"
_SINGLESTEP: Final = "DPMSolverSinglestepScheduler"
_UNFIT: Final = (ValueError, NotImplementedError, TypeError)
"""What diffusers' schedulers say of settings that they cannot combine."""
_PROBED_STEPS: Final = 10  # some forms cannot do two


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """How a sampler is made of a scheduler class of diffusers.

    Attributes:
        label: Its name in A1111's and ComfyUI's files; its own where there is none.
        options: What the name itself says, whatever the folder says.
        unless_said: Where the folder is of another class and does not say.
    """

    scheduler: str
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    unless_said: Mapping[str, Any] = field(default_factory=dict)
    of_flow: bool = False
    zero_snr: bool = True
    draws_noise: bool = False

    @property
    def family(self) -> Any:
        """The class."""
        import diffusers  # takes seconds and 150 MiB; names are asked for without it

        return getattr(diffusers, self.scheduler)


def _multistep(algorithm_type: str, *, karras: bool) -> SamplerRecipe:
    is_sde = algorithm_type.startswith("sde")
    return SamplerRecipe(
        label=f"DPM++ 2M{' SDE' * is_sde}{' Karras' * karras}",
        scheduler=_MULTISTEP,
        options={"algorithm_type": algorithm_type, "use_karras_sigmas": karras},
        draws_noise=is_sde,
    )


SAMPLERS: dict[str, SamplerRecipe] = {
    "ddim": SamplerRecipe(label="DDIM", scheduler="DDIMScheduler"),
    "ddpm": SamplerRecipe(label="DDPM", scheduler="DDPMScheduler", draws_noise=True),
    "pndm": SamplerRecipe(
        label="PLMS",
        scheduler="PNDMScheduler",
        unless_said={"skip_prk_steps": True},
        zero_snr=False,
    ),
    "euler": SamplerRecipe(label="Euler", scheduler="EulerDiscreteScheduler"),
    "euler_a": SamplerRecipe(
        label="Euler a", scheduler="EulerAncestralDiscreteScheduler", draws_noise=True
    ),
    "heun": SamplerRecipe(label="Heun", scheduler="HeunDiscreteScheduler", zero_snr=False),
    "dpmpp_2s": SamplerRecipe(
        label="DPM++ 2S",
        scheduler=_SINGLESTEP,
        options={"algorithm_type": "dpmsolver++"},
        unless_said={"lower_order_final": True},
        zero_snr=False,
    ),
    "dpmpp_2m": _multistep("dpmsolver++", karras=False),
    "dpmpp_2m_karras": _multistep("dpmsolver++", karras=True),
    "dpmpp_2m_sde": _multistep("sde-dpmsolver++", karras=False),
    "dpmpp_2m_sde_karras": _multistep("sde-dpmsolver++", karras=True),
    "unipc": SamplerRecipe(label="UniPC", scheduler="UniPCMultistepScheduler"),
    "lcm": SamplerRecipe(label="LCM", scheduler="LCMScheduler", draws_noise=True),
    "flow_euler": SamplerRecipe(
        label="Euler", scheduler="FlowMatchEulerDiscreteScheduler", of_flow=True
    ),
}
"""The samplers by name; one of another scheduler class is a line more, and the settings of its
class that are honoured (`scheduler_settings`)."""
SamplerName = Annotated[str, AfterValidator(NameIn(SAMPLERS))]


def build_sampler(name: SamplerName, noise_schedule: "NoiseSchedule") -> Any:
    """A fresh scheduler of diffusers, its steps not yet set.

    It is what `Scheduler.from_config(pipe.scheduler.config)` gives in the model folder's pipeline:
    the folder's spacing of timesteps and every other setting that the class knows; where the folder
    says nothing of a setting, the class's default. Two exceptions: what the name itself says
    (`karras`, `sde`), and PNDM without its warm-up unless the folder asks for it. Where no folder
    says how to sample: 'leading' timesteps with an offset of 1, 'trailing' with zero terminal SNR.

    Raises:
        ValueError: an unknown name, or a sampler that cannot follow this schedule.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler is {name!r}; allowed are {', '.join(SAMPLERS)}")
    if fault := _fault(name, noise_schedule):
        allowed = ", ".join(samplers_of(noise_schedule)) or "none"
        raise ValueError(f"sampler {name!r} {fault}; allowed are {allowed}")
    try:
        return _build(name, noise_schedule)
    except _UNFIT as error:
        raise ValueError(
            f"sampler {name!r} cannot be set up from the model folder's scheduler: {error}"
        ) from error


def samplers_of(noise_schedule: "NoiseSchedule") -> tuple[SamplerName, ...]:
    """The samplers that can follow a noise schedule, as the model folder would set them up."""
    return tuple(name for name in SAMPLERS if _can_follow(name, noise_schedule))


def sampler_of_folder(noise_schedule: "NoiseSchedule") -> SamplerName:
    """The sampler of the model folder's own scheduler; ours where no folder names one.

    Raises:
        SettingsError: the folder's class is none of ours, or it is set up as none of ours is.
    """
    own = noise_schedule.scheduler
    if own is None:
        return "flow_euler" if noise_schedule.config.prediction_type == "flow" else "dpmpp_2m"
    for name in samplers_of(noise_schedule):
        recipe = SAMPLERS[name]
        if recipe.scheduler == own.get("_class_name") and _says_the_same(recipe, own):
            return name
    allowed = ", ".join(samplers_of(noise_schedule))
    algorithm = own.get("algorithm_type")
    raise SettingsError(
        f"scheduler/scheduler_config.json: _class_name is {own.get('_class_name')!r}"
        f"{f', algorithm_type {algorithm!r}' if algorithm else ''}: no sampler here is the same; "
        f"name one yourself: {allowed}"
    )


def draws_noise(name: SamplerName) -> bool:
    """Whether its steps draw noise of their own, and so need the rows' generators."""
    return SAMPLERS[name].draws_noise


def _fault(name: SamplerName, noise_schedule: "NoiseSchedule") -> str | None:
    """Why a sampler cannot follow a schedule."""
    recipe, config = SAMPLERS[name], noise_schedule.config
    if recipe.of_flow != (config.prediction_type == "flow"):
        return f"does not go with prediction_type {config.prediction_type!r}"
    if config.rescale_betas_zero_snr and not recipe.zero_snr:
        return "cannot start where the signal is zero (rescale_betas_zero_snr)"
    return None


def _can_follow(name: SamplerName, noise_schedule: "NoiseSchedule") -> bool:
    if _fault(name, noise_schedule) is not None:
        return False
    try:
        _build(name, noise_schedule).set_timesteps(_PROBED_STEPS)
    except _UNFIT:
        return False
    return True


def _build(name: SamplerName, noise_schedule: "NoiseSchedule") -> Any:
    return SAMPLERS[name].family.from_config(_settings(SAMPLERS[name], noise_schedule))


def _settings(recipe: SamplerRecipe, noise_schedule: "NoiseSchedule") -> dict[str, Any]:
    own = noise_schedule.scheduler
    if own is None:
        from sd_core.model.noise_schedule import scheduler_of_noise_schedule

        base = scheduler_of_noise_schedule(noise_schedule.config)
    else:
        check_scheduler_settings(own, where="scheduler/scheduler_config.json")
        base = dict(own)
    if recipe.of_flow:
        base.setdefault("shift", noise_schedule.config.flow_shift)
    if base.get("_class_name") != recipe.scheduler:
        base = {**recipe.unless_said, **base}
    return {**base, **recipe.options}


def _says_the_same(recipe: SamplerRecipe, own: Mapping[str, Any]) -> bool:
    """Whether the folder's words are what the sampler's name says anyway."""
    found = {**constructor_defaults(recipe.family), **own}
    return all(found[name] == value for name, value in recipe.options.items())
