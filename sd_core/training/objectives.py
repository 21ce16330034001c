"""What the denoiser learns, as pure functions: noised latents, targets, weights of the loss.

Sources: epsilon, Ho et al. 2020, arXiv:2006.11239, eq. 4 and 14; v-prediction, Salimans and Ho
2022, arXiv:2202.00512, appendix D; rectified flow, Liu et al. 2022, arXiv:2209.03003, eq. 1;
min-SNR, Hang et al. 2023, arXiv:2303.09556, eq. 6; offset noise, Guttenberg 2023.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from sd_core.model.config import ModelConfig
from sd_core.model.noise_schedule import NoiseSchedule, PredictionType


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
    timestep_sampling: Literal["uniform", "logit_normal"] = "uniform"
    """Logit-normal (Esser et al. 2024, arXiv:2403.03206, eq. 19) is for flow."""
    noise_device: Literal["cpu", "gpu"] = "cpu"
    """Where rows' noise is drawn: `gpu` is other noise, drawn where the model is (also on a CPU),
    and spares the CPU most of a batch's work."""

    def identity(self) -> dict[str, Any]:
        """The options that change the result."""
        usual = {"noise_device"} if self.noise_device == "cpu" else set[str]()
        return self.model_dump(mode="json", exclude=usual)


def draw_timesteps(
    uniforms: Tensor, schedule: NoiseSchedule, *, sampling: Literal["uniform", "logit_normal"]
) -> Tensor:
    """Turn uniform draws into timesteps.

    Args:
        uniforms: (B,) float32 in [0, 1).
        schedule: Its length T, and whether it is a flow.
        sampling: See `ObjectiveConfig`.

    Returns:
        (B,): int64 in 0..T-1, or for a flow float32 sigma * T, sigma in (0, 1).
    """
    if schedule.config.prediction_type != "flow":
        length = schedule.config.num_train_timesteps
        return (uniforms.double() * length).long().clamp_(max=length - 1)
    inside = uniforms.double().clamp(1e-5, 1 - 1e-5)
    if sampling == "logit_normal":
        inside = torch.sigmoid(torch.special.ndtri(inside))
    return (inside * schedule.config.num_train_timesteps).float()


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


def loss_weights(
    timesteps: Tensor, schedule: NoiseSchedule, *, min_snr_gamma: float | None
) -> Tensor:
    """(B,) float32 weights of the samples' losses; ones without min-SNR and for flow.

    Finite everywhere: for epsilon, min(SNR, gamma) / SNR is 1 where the SNR is 0 (its limit).
    """
    if min_snr_gamma is None or schedule.config.prediction_type == "flow":
        return torch.ones(len(timesteps), device=timesteps.device)
    return min_snr_weights(
        signal_to_noise(timesteps, schedule),
        gamma=min_snr_gamma,
        prediction_type=schedule.config.prediction_type,
    )


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
