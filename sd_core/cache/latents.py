"""From stored latents to what the denoiser sees: sampled at train time, scaled exactly once."""

import torch
from torch import Tensor

from sd_core.cache.spec import AutoencoderIdentity, CacheSpec

_LOG_VARIANCE_RANGE = (-30.0, 20.0)


def scale_latents(raw_latents: Tensor, spec: CacheSpec | AutoencoderIdentity) -> Tensor:
    """Raw latents as the denoiser sees them: (raw - shift) * scaling. The only place it happens.

    Args:
        raw_latents: (..., C, h, w), a mean or a sample; moments must be sampled first.
        spec: Whose latents they are.

    Raises:
        ValueError: the channels are not the autoencoder's (moments, for one).
    """
    identity = _checked(raw_latents, spec)
    return (raw_latents - identity.shift_factor) * identity.scaling_factor


def unscale_latents(latents: Tensor, spec: CacheSpec | AutoencoderIdentity) -> Tensor:
    """The inverse of `scale_latents`, for decoding and for storing generated latents."""
    identity = _checked(latents, spec)
    return latents / identity.scaling_factor + identity.shift_factor


def posterior_mean(moments: Tensor) -> Tensor:
    """The mean of (..., 2C, h, w) stored moments."""
    return moments.chunk(2, dim=-3)[0]


def mean_latents(stored: Tensor, spec: CacheSpec) -> Tensor:
    """Raw latents (..., C, h, w) that stand for stored ones: the mean of moments, or they."""
    return posterior_mean(stored) if spec.form == "moments" else stored


def sample_posterior(moments: Tensor, *, noise: Tensor) -> Tensor:
    """Draw raw latents from stored moments with the given standard normal noise.

    Args:
        moments: (..., 2C, h, w) mean and log-variance; the latter is clamped to [-30, 20].
        noise: (..., C, h, w).

    Source: Kingma and Welling 2013, arXiv:1312.6114; the clamp is latent-diffusion's.
    """
    mean, log_variance = moments.float().chunk(2, dim=-3)
    deviation = torch.exp(0.5 * log_variance.clamp(*_LOG_VARIANCE_RANGE))
    return mean + deviation * noise


def _checked(latents: Tensor, spec: CacheSpec | AutoencoderIdentity) -> AutoencoderIdentity:
    identity = spec.identity.autoencoder if isinstance(spec, CacheSpec) else spec
    if latents.shape[-3] != identity.latent_channels:
        raise ValueError(
            f"latents of {latents.shape[-3]} channels, the autoencoder has "
            f"{identity.latent_channels}; take the mean of moments, or a sample, first"
        )
    return identity
