"""Classifier-free guidance, and the rescaling that keeps it from overexposing."""

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
