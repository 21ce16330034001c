"""How much noise each timestep holds, and the scheduler files of diffusers that say the same.

Sources: Ho et al. 2020, arXiv:2006.11239 (DDPM); Rombach et al. 2022, arXiv:2112.10752 (the
scaled linear betas); Nichol and Dhariwal 2021, arXiv:2102.09672 (the squared cosine); Lin et al.
2023, arXiv:2305.08891 (zero terminal SNR).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from sd_core.model.config import ModelConfig
from sd_core.model.scheduler_settings import FLOW_PREDICTION, check_scheduler_settings
from sd_core.model.settings_check import constructor_defaults
from sd_core.model.weights import WeightsError

PredictionType = Literal["epsilon", "v_prediction", "flow"]
"""What the denoiser's output is: the noise, the velocity of Salimans and Ho 2022, or the rectified
flow's velocity (noise minus latents)."""
BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]

_MAX_BETA: Final = 0.999
_FLOW_CLASS: Final = "FlowMatchEulerDiscreteScheduler"
_BETAS: Final = ("beta_start", "beta_end", "beta_schedule")


class NoiseScheduleConfig(ModelConfig):
    """The forward process; the defaults are Stable Diffusion's."""

    num_train_timesteps: int = Field(default=1000, ge=2)
    """Timesteps of the forward process."""
    beta_start: float = Field(default=0.00085, gt=0, lt=1)
    """Variance of the noise that the first timestep adds. Unit: share."""
    beta_end: float = Field(default=0.012, gt=0, lt=1)
    """Variance of the noise that the last timestep adds. Unit: share."""
    beta_schedule: BetaSchedule = "scaled_linear"
    """How the variance grows in between; `scaled_linear` is linear in its root."""
    prediction_type: PredictionType = "epsilon"
    """What the denoiser says: the noise, v, or the velocity of a rectified flow."""
    rescale_betas_zero_snr: bool = False
    """Let the last timestep be noise alone; needs `v_prediction`."""
    flow_shift: float = Field(default=1.0, gt=0)
    """Of a flow: sigma becomes shift * sigma / (1 + (shift - 1) * sigma) when sampling. Unit:
    factor."""

    @model_validator(mode="after")
    def _check(self) -> "NoiseScheduleConfig":
        if self.rescale_betas_zero_snr and self.prediction_type != "v_prediction":
            raise ValueError(
                f"rescale_betas_zero_snr with prediction_type {self.prediction_type!r}: where "
                "there is only noise, predicting it tells nothing of the image; use 'v_prediction'"
            )
        if self.flow_shift != 1.0 and self.prediction_type != "flow":
            raise ValueError("flow_shift is for prediction_type 'flow' only")
        return self


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """A built noise schedule.

    `alphas_cumprod` is (T,) float32 on the CPU, falling: the share of the latents' variance left
    at each timestep. Stable Diffusion's: 0.99915 at 0, 0.00466 at 999; exactly 0 at the last where
    rescaled. A flow does not use it: there t in [0, T) means sigma = t / T.
    `scheduler` is the model folder's own `scheduler_config.json`, which sampling follows; None
    where no folder says how to sample.
    """

    config: NoiseScheduleConfig
    alphas_cumprod: Tensor
    scheduler: Mapping[str, Any] | None = None


def build_noise_schedule(
    config: NoiseScheduleConfig, *, scheduler: Mapping[str, Any] | None = None
) -> NoiseSchedule:
    """Compute the schedule in float32, to the bit as diffusers does where not rescaled."""
    alphas_cumprod = torch.cumprod(1.0 - _betas(config), dim=0)
    if config.rescale_betas_zero_snr:
        alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
    return NoiseSchedule(config=config, alphas_cumprod=alphas_cumprod, scheduler=scheduler)


def low_res_schedule(found: NoiseSchedule | None) -> NoiseSchedule:
    """An upscaler's schedule for its images of low resolution: Stable Diffusion x4's by default."""
    if found is not None:
        return found
    return build_noise_schedule(NoiseScheduleConfig(beta_start=0.0001, beta_end=0.02))


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha-bar) so that it ends at 0 and starts where it did.

    Args:
        alphas_cumprod: (T,) float, falling.

    Returns:
        (T,), the first value kept, the last exactly 0.

    Source: Lin et al. 2023, algorithm 1.
    """
    roots = alphas_cumprod.sqrt()
    first, last = roots[0], roots[-1]
    return ((roots - last) * (first / (first - last))) ** 2


def noise_schedule_of_scheduler(scheduler: Mapping[str, Any], *, where: str) -> NoiseScheduleConfig:
    """Read a diffusers `scheduler_config.json`; keys it lacks have its class's defaults.

    Raises:
        WeightsError: it says something that is not supported, naming `where`.
    """
    class_name = str(scheduler.get("_class_name", ""))
    found = {**_class_defaults(class_name, where=where), **scheduler}
    check_scheduler_settings(scheduler, where=where)
    prediction_type = str(found.get("prediction_type", "epsilon"))
    if class_name == _FLOW_CLASS or prediction_type == FLOW_PREDICTION:
        shift = float(found.get("shift", found.get("flow_shift")) or 1.0)
        options: dict[str, Any] = {"prediction_type": "flow", "flow_shift": shift}
    else:
        missing = [name for name in _BETAS if found.get(name) is None]
        if missing or "num_train_timesteps" not in found:
            raise WeightsError(
                f"{where}: a {class_name} says nothing of {', '.join(missing)}: its noise is of "
                "another kind (such as EDM's sigmas), which is not supported; name a model with a "
                "schedule of betas or a flow"
            )
        options = {
            "prediction_type": prediction_type,
            "beta_start": found.get("beta_start"),
            "beta_end": found.get("beta_end"),
            "beta_schedule": found.get("beta_schedule"),
            "rescale_betas_zero_snr": bool(found.get("rescale_betas_zero_snr", False)),
        }
    try:
        return NoiseScheduleConfig(num_train_timesteps=found["num_train_timesteps"], **options)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise WeightsError(
            f"{where}: {class_name} is not supported as it stands: {faults}"
        ) from None


def scheduler_of_noise_schedule(config: NoiseScheduleConfig) -> dict[str, Any]:
    """The `scheduler_config.json` that says the same to diffusers: DDIM's, or a flow's Euler."""
    if config.prediction_type == "flow":
        return {
            "_class_name": _FLOW_CLASS,
            "num_train_timesteps": config.num_train_timesteps,
            "shift": config.flow_shift,
        }
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "prediction_type": config.prediction_type,
        "rescale_betas_zero_snr": config.rescale_betas_zero_snr,
        "timestep_spacing": "trailing" if config.rescale_betas_zero_snr else "leading",
        "steps_offset": 1,
        "clip_sample": False,
        "set_alpha_to_one": False,
    }


def _betas(config: NoiseScheduleConfig) -> Tensor:
    """(T,) float32."""
    start, end, count = config.beta_start, config.beta_end, config.num_train_timesteps
    if config.beta_schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if config.beta_schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    bars = [
        math.cos((step / count + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(count + 1)
    ]
    betas = [min(1 - after / before, _MAX_BETA) for before, after in pairwise(bars)]
    return torch.tensor(betas, dtype=torch.float32)


def _class_defaults(class_name: str, *, where: str) -> dict[str, Any]:
    import diffusers

    found = getattr(diffusers, class_name, None) if class_name.endswith("Scheduler") else None
    if found is None:
        raise WeightsError(
            f"{where}: {class_name or 'no _class_name'} is no scheduler of diffusers"
        )
    return constructor_defaults(found)
