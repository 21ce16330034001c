"""What an autoencoder's reconstructions cost, as pure functions of tensors.

Everything is a mean over an image's values, where latent-diffusion's code sums: the weights keep
their proportions, and a loss means the same at every resolution.
"""

import torch
import torch.distributed as dist
from torch import Tensor

_MAX_ADAPTIVE_WEIGHT = 1e4
_EPSILON = 1e-4


def pixel_loss(
    reconstructions: Tensor, images: Tensor, *, l1_weight: float, l2_weight: float
) -> Tensor:
    """Weighted mean absolute and squared differences, (B,), of (B, 3, H, W) in [-1, 1]."""
    difference = (reconstructions.float() - images.float()).flatten(1)
    return l1_weight * difference.abs().mean(1) + l2_weight * difference.square().mean(1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of a diagonal Gaussian from the standard one, in nats summed over latents, (B,).

    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B.
    """
    mean, log_variance = mean.float(), log_variance.float()
    terms = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return terms.flatten(1).sum(1)


def codebook_loss(latents: Tensor, codes: Tensor, *, commitment_weight: float) -> Tensor:
    """|sg[z] - e|^2 + beta |z - sg[e]|^2, (B,): codes move to latents, latents commit to codes.

    Args:
        latents: (B, C, h, w) before quantisation.
        codes: (B, C, h, w), the nearest entries of the codebook, with gradients to it.
        commitment_weight: beta. (The published code has it on the other term by mistake.)

    Source: van den Oord et al. 2017, arXiv:1711.00937, eq. 3.
    """
    latents, codes = latents.float(), codes.float()
    towards_latents = (codes - latents.detach()).square().flatten(1).mean(1)
    towards_codes = (latents - codes.detach()).square().flatten(1).mean(1)
    return towards_latents + commitment_weight * towards_codes


def adaptive_weight(
    reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor
) -> Tensor:
    """|grad of reconstruction| / (|grad of adversarial| + 1e-4) at the last layer, at most 1e4.

    Args:
        reconstruction_loss: Scalar; its graph is kept.
        adversarial_loss: Scalar; its graph is kept.
        last_layer: The decoder's last weights.

    Returns:
        A scalar without gradients; over the mean gradients of all workers where there are any,
        so that it is the same for any number of them.

    Source: Esser et al. 2020, arXiv:2012.09841, eq. 7; the constants are latent-diffusion's.
    """
    (towards_images,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (towards_real,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
    gradients = torch.stack([towards_images, towards_real]).detach()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(gradients)
        gradients = gradients / dist.get_world_size()
    reconstruction, adversarial = gradients.flatten(1).norm(dim=1)
    weight: Tensor = (reconstruction / (adversarial + _EPSILON)).clamp(0, _MAX_ADAPTIVE_WEIGHT)
    return weight


def psnr_db(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,), of (B, 3, H, W) in [-1, 1]; clamped to that range."""
    difference = (reconstructions.float().clamp(-1, 1) - images.float()) / 2
    error: Tensor = difference.square().flatten(1).mean(1).clamp(min=1e-10)
    return -10 * error.log10()
