"""What makes a loaded model sample faster, and changes its results by rounding alone."""

from dataclasses import replace
from typing import Any

import torch

from sd_core.model.latent_diffusion import LatentDiffusion


def prepare_for_sampling(
    model: LatentDiffusion, *, compile: bool, channels_last: bool
) -> LatentDiffusion:
    """The same model, its convolutional parts laid out or compiled for speed.

    Args:
        model: Its denoiser and autoencoder are changed in place by `channels_last`.
        compile: torch.compile the denoiser, for one shape of batch at a time: the first batch of
            each shape takes minutes. The decoder is compiled too.
        channels_last: Weights in the layout that tensor cores prefer.
    """
    if channels_last:
        for module in (model.denoiser, model.autoencoder.module):
            placed: Any = module
            placed.to(memory_format=torch.channels_last)
    if not compile:
        return model
    autoencoder: Any = model.autoencoder.module
    autoencoder.decode = torch.compile(autoencoder.decode, dynamic=False)
    denoiser: Any = torch.compile(model.denoiser, dynamic=False)
    return replace(model, denoiser=denoiser)
