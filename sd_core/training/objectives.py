"""What the denoiser learns, as pure functions: noised latents, targets, weights of the loss.

Sources: epsilon, Ho et al. 2020, arXiv:2006.11239, eq. 4 and 14; v-prediction, Salimans and Ho
2022, arXiv:2202.00512, appendix D; rectified flow, Liu et al. 2022, arXiv:2209.03003, eq. 1;
min-SNR, Hang et al. 2023, arXiv:2303.09556, eq. 6; offset noise, Guttenberg 2023; a flow's
timesteps, Esser et al. 2024, arXiv:2403.03206, section 3.1 and eq. 23.
"""

import math
from typing import Any, Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from sd_core.model.config import ModelConfig
from sd_core.model.noise_schedule import NoiseSchedule, PredictionType

TimestepSampling = Literal["uniform", "logit_normal", "mode", "cosmap"]
_OF_FLOWS: Final = ("logit_mean", "logit_std", "mode_scale", "shift_timesteps", "flow_weighting")
_NEWER: Final = (*_OF_FLOWS, "noise_device")


class ObjectiveConfig(ModelConfig):
    """The loss; what is predicted is the model's own, in its noise schedule."""

    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Weigh each sample by min(SNR, gamma); 5 in the paper. Not for flow. Unit: signal-to-noise
    ratio."""
    offset_noise: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation of noise that is constant over each channel's plane. Unit: standard
    deviation."""
    caption_dropout: float = Field(default=0.1, ge=0, le=1)
    """Share of captions replaced by the empty one, which is what guidance needs. Unit: share."""
    timestep_sampling: TimestepSampling = "uniform"
    """How a flow's sigma is drawn: `logit_normal`, `mode` and `cosmap` are Esser et al.'s (2024,
    arXiv:2403.03206, eq. 19 to 21); Stable Diffusion 3 took `logit_normal`."""
    logit_mean: float = 0.0
    """Of `logit_normal`: above 0 it draws more noise. Unit: number."""
    logit_std: float = Field(default=1.0, gt=0)
    """Of `logit_normal`. Unit: number."""
    mode_scale: float = Field(default=1.29, ge=-1, le=2 / (math.pi - 2))
    """Of `mode`: above 0 it draws more of the middle, below 0 less. Unit: number."""
    shift_timesteps: bool = False
    """Shift a flow's drawn sigmas as sampling does, by `noise_schedule.flow_shift` (Esser et al.,
    eq. 23); Stable Diffusion 3's training at 1,024 px did."""
    flow_weighting: Literal["none", "sigma_sqrt", "cosmap"] = "none"
    """Weigh a flow's losses by 1 / sigma^2 or by 2 / (pi (1 - 2 sigma + 2 sigma^2)), as diffusers'
    training scripts call them. A way of drawing sigma is a weighting already."""
    noise_device: Literal["cpu", "gpu"] = "cpu"
    """Where rows' noise is drawn: `gpu` is other noise, drawn where the model is (also on a CPU),
    and spares the CPU most of a batch's work."""

    def identity(self) -> dict[str, Any]:
        """What changes the weights; options that earlier versions had not count where they are
        set."""
        said = self.model_dump(mode="json", exclude_defaults=True)
        newer = {name: value for name, value in said.items() if name in _NEWER}
        return {**self.model_dump(mode="json", exclude=set(_NEWER)), **newer}

    def fault(self, prediction_type: PredictionType) -> str | None:
        """What of it does nothing with a model of this kind."""
        asked = self.model_dump(exclude_defaults=True, include=set(_OF_FLOWS))
        if self.timestep_sampling not in ("uniform", "logit_normal"):
            asked["timestep_sampling"] = self.timestep_sampling
        if not asked or prediction_type == "flow":
            return None
        name, value = next(iter(asked.items()))
        return f"{name} is {value!r}, which is of a flow; the model predicts {prediction_type}"


def draw_timesteps(uniforms: Tensor, schedule: NoiseSchedule, objective: ObjectiveConfig) -> Tensor:
    """Turn uniform draws into timesteps.

    Args:
        uniforms: (B,) float32 in [0, 1).
        schedule: Its length T, whether it is a flow, and its shift.
        objective: How a flow's are drawn.

    Returns:
        (B,): int64 in 0..T-1, or for a flow float32 sigma * T, sigma in (0, 1).
    """
    if schedule.config.prediction_type != "flow":
        length = schedule.config.num_train_timesteps
        return (uniforms.double() * length).long().clamp_(max=length - 1)
    sigmas = _draw_sigmas(uniforms.double().clamp(1e-5, 1 - 1e-5), objective)
    if objective.shift_timesteps:
        shift = schedule.config.flow_shift
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    return (sigmas * schedule.config.num_train_timesteps).float()


def _draw_sigmas(uniforms: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Esser et al. 2024, equations 19 to 21, of (B,) float64 in (0, 1)."""
    quarter = math.pi / 2
    match objective.timestep_sampling:
        case "logit_normal":
            normal = torch.special.ndtri(uniforms)
            return torch.sigmoid(objective.logit_mean + objective.logit_std * normal)
        case "mode":
            bend = torch.cos(quarter * uniforms) ** 2 - 1 + uniforms
            return 1 - uniforms - objective.mode_scale * bend
        case "cosmap":
            return 1 - 1 / (torch.tan(quarter * uniforms) + 1)
        case _:
            return uniforms


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The noised latents of each sample's timestep, (B, C, h, w)."""
    signal, spread = signal_and_noise(timesteps, schedule, like=latents)
    return signal * latents + spread * noise


def target_of(latents: Tensor, noise: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """What the denoiser should say, (B, C, h, w): the noise, v, or the flow's velocity."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "flow":
        return noise - latents
    signal, spread = signal_and_noise(timesteps, schedule, like=latents)
    return signal * noise - spread * latents


def losses_of(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Each sample's weighted mean squared error, (B,) float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(dim=1) * weights


def loss_weights(timesteps: Tensor, schedule: NoiseSchedule, objective: ObjectiveConfig) -> Tensor:
    """(B,) float32 weights of the samples' losses: ones, min-SNR's, or a flow's.

    Finite everywhere: for epsilon, min(SNR, gamma) / SNR is 1 where the SNR is 0 (its limit).
    """
    if schedule.config.prediction_type == "flow":
        return _flow_weights(timesteps / schedule.config.num_train_timesteps, objective)
    if objective.min_snr_gamma is None:
        return torch.ones(len(timesteps), device=timesteps.device)
    return min_snr_weights(
        signal_to_noise(timesteps, schedule),
        gamma=objective.min_snr_gamma,
        prediction_type=schedule.config.prediction_type,
    )


def _flow_weights(sigmas: Tensor, objective: ObjectiveConfig) -> Tensor:
    if objective.flow_weighting == "sigma_sqrt":
        return sigmas.clamp(min=1e-5) ** -2
    if objective.flow_weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
    return torch.ones_like(sigmas)


def min_snr_weights(snr: Tensor, *, gamma: float, prediction_type: PredictionType) -> Tensor:
    """min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v (Hang et al., eq. 6)."""
    if prediction_type == "epsilon":
        return torch.where(snr <= gamma, torch.ones_like(snr), gamma / snr.clamp(min=gamma))
    return snr.clamp(max=gamma) / (snr + 1)


def signal_to_noise(timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """alpha-bar / (1 - alpha-bar) of each timestep, (B,) float32."""
    alphas = schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas / (1 - alphas)


def signal_and_noise(
    timesteps: Tensor, schedule: NoiseSchedule, *, like: Tensor
) -> tuple[Tensor, Tensor]:
    """The factors of latents and noise at each timestep, both (B, 1, 1, 1) float32."""
    shape = (-1, *[1] * (like.ndim - 1))
    if schedule.config.prediction_type == "flow":
        sigmas = (timesteps.float() / schedule.config.num_train_timesteps).reshape(shape)
        return 1 - sigmas, sigmas
    alphas = schedule.alphas_cumprod.to(timesteps.device)[timesteps].reshape(shape)
    return alphas.sqrt(), (1 - alphas).sqrt()
