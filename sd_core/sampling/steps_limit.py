"""How many steps a sampler can take on a model's noise schedule, found out by asking it.

diffusers' schedulers refuse in different places: some when their timesteps are set (LCM beyond 50,
DDIM beyond the schedule), some at the first step or the last one (the 'leading' forms at 1,000),
and some not at all: they give timesteps outside the schedule, or come to NaN. So a row of one
number walks through all of its steps, without a denoiser: 0.1 to 0.6 ms a step.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sd_core.model.noise_schedule import NoiseSchedule
from sd_core.sampling.samplers import SamplerName, build_sampler
from sd_core.sampling.source import SourceLatents, SourceNoiser, num_steps_of

_SHAPE = (1, 1, 2, 2)
_Asked = tuple[SamplerName, int, int | None, bool]


@dataclass(frozen=True, kw_only=True)
class StepsLimit:
    """Judges numbers of steps on one noise schedule; what it was asked once it remembers."""

    noise_schedule: NoiseSchedule
    _faults: dict[_Asked, str | None] = field(default_factory=dict, repr=False, compare=False)

    def fault(
        self,
        sampler: SamplerName,
        num_inference_steps: int,
        *,
        strength: float | None = None,
        is_masked: bool = False,
    ) -> str | None:
        """Why the sampler cannot take so many steps, and what is allowed; None where it can.

        Args:
            sampler: One that goes with the schedule.
            strength: Of a row that starts from an image, and so takes the last steps alone.
            is_masked: Whether that image is kept at every step, outside a mask.
        """
        why = self._why_not(sampler, num_inference_steps, strength, is_masked)
        if why is None:
            return None
        count = self.noise_schedule.config.num_train_timesteps
        allowed = self._allowed(sampler, num_inference_steps, strength, is_masked)
        return (
            f"found {num_inference_steps}; sampler {sampler} on this model's schedule of {count} "
            f"timesteps takes {allowed} ({why})"
        )

    def _why_not(
        self, sampler: SamplerName, steps: int, strength: float | None, is_masked: bool
    ) -> str | None:
        taken = None if strength is None else num_steps_of(strength, num_inference_steps=steps)
        asked = (sampler, steps, taken, is_masked)
        if asked not in self._faults:
            source = None if strength is None else _source(strength, is_masked)
            self._faults[asked] = _walk(sampler, self.noise_schedule, steps, source)
        return self._faults[asked]

    def _allowed(
        self, sampler: SamplerName, steps: int, strength: float | None, is_masked: bool
    ) -> str:
        """The largest number of steps below a refused one, by bisection."""
        works, fails = 0, steps
        beyond = self.noise_schedule.config.num_train_timesteps + 1
        if beyond < fails and self._why_not(sampler, beyond, strength, is_masked) is not None:
            fails = beyond  # most limits lie below: do not walk through thousands of steps
        while fails - works > 1:
            middle = (works + fails) // 2
            if self._why_not(sampler, middle, strength, is_masked) is None:
                works = middle
            else:
                fails = middle
        is_hole = steps < beyond and self._why_not(sampler, steps + 1, strength, is_masked) is None
        return f"{works} or {steps + 1}" if is_hole else f"up to {works}"


def _source(strength: float, is_masked: bool) -> SourceLatents:
    """Stands for an image to start from."""
    mask = torch.ones(_SHAPE) if is_masked else None
    return SourceLatents(latents=torch.ones(_SHAPE), strength=strength, mask=mask)


def _walk(
    sampler: SamplerName, schedule: NoiseSchedule, steps: int, source: SourceLatents | None
) -> str | None:
    """Take all the steps as `generate_latents` does; returns what went wrong."""
    try:
        scheduler = build_sampler(sampler, schedule)
        scheduler.set_timesteps(steps)
        timesteps, latents, noiser = _begin(scheduler, steps, source)
        fault = _outside(timesteps, schedule)
        if fault is not None:
            return fault
        for step, timestep in enumerate(timesteps):
            latents = _take_step(scheduler, timestep, latents)
            if noiser is not None:
                latents = noiser.after(latents, step)
    except (ValueError, IndexError, AssertionError, RuntimeError, ArithmeticError) as error:
        said = " ".join(str(error).split())[:120]
        return f"diffusers: {said or type(error).__name__}"
    return None if bool(torch.isfinite(latents).all()) else "its steps come to no number"


def _begin(
    scheduler: Any, steps: int, source: SourceLatents | None
) -> tuple[Tensor, Tensor, SourceNoiser | None]:
    noise = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(0))
    if source is None:
        return scheduler.timesteps, noise * getattr(scheduler, "init_noise_sigma", 1.0), None
    noiser = SourceNoiser(scheduler, source, noise=noise, num_inference_steps=steps)
    return noiser.timesteps, noiser.first(), noiser


def _outside(timesteps: Tensor, schedule: NoiseSchedule) -> str | None:
    """Timesteps that the denoiser was not trained on, or that are all one."""
    config = schedule.config
    is_flow = config.prediction_type == "flow"
    last = config.num_train_timesteps - (0 if is_flow else 1)
    found = timesteps.double()
    outside = found[(found < 0) | (found > last)]
    if len(outside):
        return f"it would ask for timestep {outside[0]:g}, and there are 0 to {last}"
    if len(found) > 2 and bool((found == found[0]).all()):
        return f"all of its steps would be at timestep {found[0]:g}"
    return None


def _take_step(scheduler: Any, timestep: Tensor, latents: Tensor) -> Tensor:
    options: dict[str, Any] = {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = [torch.Generator().manual_seed(0)]
    scaled = latents
    if hasattr(scheduler, "scale_model_input"):
        scaled = scheduler.scale_model_input(latents, timestep)
    stepped: Tensor = scheduler.step(scaled, timestep, latents, return_dict=False, **options)[0]
    return stepped
