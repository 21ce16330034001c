"""A made-up input of a denoiser's own sizes, for counting its work."""

import torch
from torch import Tensor

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import LatentDiffusion


def forward_once(model: LatentDiffusion) -> Tensor:
    """One forward pass of the denoiser over one sample of zeros."""
    device, encoder = next(model.denoiser.parameters()).device, model.text_encoder
    latents = torch.zeros(1, *model.latents_shape, device=device)
    conditioning = Conditioning(
        prompt_embeds=torch.zeros(1, encoder.token_length, encoder.embed_dim, device=device),
        pooled_prompt_embeds=None,
        time_ids=None,
    )
    timesteps = torch.zeros(1, device=device, dtype=torch.long)
    return predict(model.denoiser, latents, timesteps, conditioning)
