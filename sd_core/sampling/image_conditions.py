"""Images that a denoiser goes by: what inpainting leaves, and what upscaling starts from.

The denoiser sees them beside the noisy latents at every step, with and without the caption; a call
of `generate_latents` needs them on both of its conditionings.

Sources: Rombach et al. 2022, sections 4.4 and 4.5, arXiv:2112.10752; noise on the low-resolution
image, and its level as a condition, Ho et al. 2021, arXiv:2106.15282.
"""

from dataclasses import replace

import torch
from torch import Tensor

from sd_core.cache.latents import scale_latents
from sd_core.model.autoencoder import encode_images
from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.noise_schedule import low_res_schedule

DEFAULT_NOISE_LEVEL = 20


def condition_on_masked_images(
    conditioning: Conditioning, *, mask: Tensor, masked_latents: Tensor
) -> Conditioning:
    """For a denoiser of inpainting: a mask, and the latents of the image without what it covers.

    Args:
        conditioning: B rows, or one for all.
        mask: (B, 1, h, w) float: 1 where the image is made anew, 0 where it stays.
        masked_latents: (B, C, h, w) scaled latents, of `encode_masked_images`.

    Raises:
        ValueError: the sizes differ.
    """
    if mask.shape != (len(masked_latents), 1, *masked_latents.shape[2:]):
        raise ValueError(
            f"a mask of {tuple(mask.shape)} for latents of {tuple(masked_latents.shape)}; it needs "
            "as many rows, one channel and the latents' height and width"
        )
    channels = torch.cat([mask.to(masked_latents), masked_latents], dim=1)
    return _with_images(conditioning, channels)


@torch.inference_mode()
def encode_masked_images(model: LatentDiffusion, images: Tensor, mask: Tensor) -> Tensor:
    """Latents of images whose masked part is grey: what a denoiser of inpainting may see.

    Args:
        model: Its autoencoder encodes; a posterior's mean is taken.
        images: (B, 3, H, W) float in [-1, 1].
        mask: (B, 1, H, W) bool or 0 and 1: true where the image is made anew.

    Returns:
        (B, C, h, w) float32 scaled latents on the autoencoder's device.
    """
    left = images * (1 - mask.to(images))
    raw = encode_images(model.autoencoder, left, form="mean")
    return scale_latents(raw, model.identity.autoencoder)


def condition_on_low_resolution(
    model: LatentDiffusion,
    conditioning: Conditioning,
    *,
    images: Tensor,
    noise: Tensor,
    noise_level: int = DEFAULT_NOISE_LEVEL,
) -> Conditioning:
    """For a denoiser of upscaling: images of low resolution, with a little noise.

    Args:
        model: Of the noise's schedule.
        conditioning: B rows, or one for all.
        images: (B, 3, h, w) float in [-1, 1], as high and wide as the latents: the result's sides
            are the autoencoder's `downsampling` times theirs.
        noise: (B, 3, h, w) standard normal, of `initial_noise`. diffusers draws it before the
            latents' own noise.
        noise_level: The timestep of its schedule; more invents more. Stable Diffusion x4 was made
            for up to 350.

    Raises:
        ValueError: the sizes differ, or the schedule has no such timestep.
    """
    alphas = low_res_schedule(model.low_res_noise_schedule).alphas_cumprod
    if images.shape != noise.shape:
        raise ValueError(f"images of {tuple(images.shape)} and noise of {tuple(noise.shape)}")
    if not 0 <= noise_level < len(alphas):
        raise ValueError(f"noise_level is {noise_level}; allowed are 0 to {len(alphas) - 1}")
    signal, spread = alphas[noise_level].sqrt(), (1 - alphas[noise_level]).sqrt()
    labels = torch.full((len(images),), noise_level, dtype=torch.long)
    noised = signal * images + spread * noise.to(images)
    return replace(_with_images(conditioning, noised), class_labels=labels)


def _with_images(conditioning: Conditioning, channels: Tensor) -> Conditioning:
    count = len(channels)
    whole = conditioning if len(conditioning) == count else conditioning.expand(count)
    return replace(whole, image_channels=channels)
