"""What makes a loaded model sample faster, and changes its results by rounding alone."""

from dataclasses import replace
from typing import Any, Literal

import torch

from sd_core.model.compiling import compile_blocks
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.sampling.graphs import Graphed

Compile = bool | Literal["blocks"]
"""True: the denoiser and the decoder as a whole; `blocks`: the denoiser's repeated blocks."""


def prepare_for_sampling(
    model: LatentDiffusion,
    *,
    compile: Compile = False,
    channels_last: bool = False,
    cuda_graphs: bool = False,
) -> LatentDiffusion:
    """The same model, its convolutional parts laid out, compiled or recorded for speed.

    Args:
        model: Its denoiser and autoencoder are changed in place by `channels_last` and `blocks`.
        compile: torch.compile for one shape of batch at a time, which of the whole takes minutes
            for the first batch of each shape.
        channels_last: Weights in the layout that tensor cores prefer.
        cuda_graphs: Record the denoiser's work once for each shape; on a GPU alone.
    """
    denoiser: Any = model.denoiser
    autoencoder: Any = model.autoencoder.module
    if channels_last:
        for module in (denoiser, autoencoder):
            module.to(memory_format=torch.channels_last)
    if compile == "blocks":
        compile_blocks(denoiser)
    elif compile:
        autoencoder.decode = torch.compile(autoencoder.decode, dynamic=False)
        denoiser = torch.compile(denoiser, dynamic=False)
    if cuda_graphs and model.autoencoder.device.type == "cuda":
        denoiser = Graphed(denoiser)
    return replace(model, denoiser=denoiser)
