"""What a denoiser of inpainting or of upscaling sees of a batch's images, beside the text."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipelines.steps.generate.init_images import InitImage
from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.memory import to_device
from sd_core.sampling.image_conditions import (
    condition_on_low_resolution,
    condition_on_masked_images,
    encode_masked_images,
)
from sd_core.sampling.noise import initial_noise
from sd_core.sampling.source import SourceLatents
from sd_core.sampling.text_to_image import decode_scaled

AddImages = Callable[[Conditioning], Conditioning]


def add_pictures(
    model: LatentDiffusion,
    pictures: Sequence[Tensor],
    generators: Sequence[torch.Generator],
    *,
    noise_level: int,
) -> AddImages:
    """For upscaling: pictures (3, h, w) in [-1, 1], with noise of the rows' own generators.

    The noise is drawn here, so before the latents' own.
    """
    images = torch.stack(list(pictures))
    height, width = images.shape[2:]
    noise = initial_noise(generators, shape=(3, height, width))

    def add(conditioning: Conditioning) -> Conditioning:
        return condition_on_low_resolution(
            model, conditioning, images=images, noise=noise, noise_level=noise_level
        )

    return add


def add_masked_images(
    model: LatentDiffusion, sources: Sequence[InitImage], *, device: torch.device
) -> AddImages:
    """For inpainting: the masks, and the sources without what those cover.

    Args:
        sources: Of a batch that is filled up: a row's last bit follows their number.
    """
    masks, latents_masks = [], []
    for source in sources:
        if source.mask is None or source.latents_mask is None:
            raise ValueError("a row of inpainting has no mask")
        masks.append(source.mask.permute(2, 0, 1))
        latents_masks.append(source.latents_mask)
    latents = to_device(torch.stack([source.latents for source in sources]), device)
    images = decode_scaled(model, latents).clamp(-1, 1)
    masked_latents = encode_masked_images(model, images, to_device(torch.stack(masks), device))
    mask = to_device(torch.stack(latents_masks), device)

    def add(conditioning: Conditioning) -> Conditioning:
        return condition_on_masked_images(conditioning, mask=mask, masked_latents=masked_latents)

    return add


def inpainting_source(source: SourceLatents) -> SourceLatents | None:
    """Where the steps begin: at full strength from noise alone, as diffusers does.

    The mask is left off: the denoiser itself keeps the rest.
    """
    if source.strength >= 1:
        return None
    return SourceLatents(latents=source.latents, strength=source.strength)
