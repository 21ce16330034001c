"""Guidance without a classifier, its rescaling, and guidance as an input of the denoiser."""

import math

import torch
from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float | Tensor) -> Tensor:
    """unconditional + scale * (conditional - unconditional).

    Args:
        unconditional: (B, C, h, w) predicted for the empty caption.
        conditional: (B, C, h, w) predicted for the captions.
        guidance_scale: 1 gives the conditional one; a tensor (B, 1, 1, 1) has one for each row.

    Source: Ho and Salimans 2022, arXiv:2207.12598, with scale = 1 + their w.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def rescale_guided(guided: Tensor, conditional: Tensor, guidance_rescale: float) -> Tensor:
    """Bring the guided prediction's deviation, row by row, back to the conditional one's.

    Args:
        guided: (B, C, h, w), of `guide`.
        conditional: (B, C, h, w).
        guidance_rescale: 0 leaves it as it is, 1 rescales fully; Lin et al. take 0.7.

    Source: Lin et al. 2023, equations 15 and 16, arXiv:2305.08891.
    """
    axes = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return guidance_rescale * (guided * ratio) + (1 - guidance_rescale) * guided


def embed_guidance_scale(guidance_scale: Tensor, *, width: int) -> Tensor:
    """What a denoiser distilled of a guided one is told: sines and cosines of the scale.

    Args:
        guidance_scale: (B,) float; 1 means no guidance.
        width: Of the embedding, at least 4.

    Returns:
        (B, width) float32: sines, then cosines, of 1000 (scale - 1) at frequencies from 1 down to
        1 / 10,000; a last zero where the width is odd.

    Source: Luo et al. 2023, section 4.2, arXiv:2310.04378, with their omega = scale - 1; the
    embedding of Kingma et al. 2021, arXiv:2107.00630.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=guidance_scale.device)
    frequencies = torch.exp(steps * -(math.log(10_000.0) / (half - 1)))
    angles = (guidance_scale.float() - 1.0)[:, None] * 1000.0 * frequencies[None, :]
    embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(embedding, (0, width % 2))
