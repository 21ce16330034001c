"""What an autoencoder's reconstructions cost, and what tells them from originals patch by patch.

Everything is a mean over an image's values, where latent-diffusion's code sums: the weights keep
their proportions, and a loss means the same at every resolution.
"""

import math

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from sd_core.model.config import ModelConfig
from sd_core.model.precision import seeded

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


_MAX_CHANNELS_FACTOR = 8
_MAX_GROUPS = 32


class DiscriminatorConfig(ModelConfig):
    """The discriminator and when it has a say; the defaults are the LDM paper's."""

    weight: float = Field(default=0.5, ge=0)
    """Of its part in the generator's loss, times the adaptive weight; 0: no discriminator."""
    start_step: int = Field(default=50_001, ge=0)
    """The first step at which it learns and is listened to."""
    num_layers: int = Field(default=3, ge=1, le=6)
    """Layers that halve the sides. Unit: layers."""
    base_channels: int = Field(default=64, ge=4)
    """Channels of the first layer; each further one has twice as many, up to eight times the first.
    Unit: channels."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of its first weights."""


class PatchDiscriminator(nn.Module):
    """pix2pix's PatchGAN: one logit for each overlapping patch (70 px with three layers).

    Group norm stands where pix2pix has batch norm, so that an image's logits depend on that image
    alone, not on its batch, micro-batch or worker.

    Source: Isola et al. 2016, arXiv:1611.07004, section 3.2.2; weights as in its section 6.2.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        width = config.base_channels
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for depth in range(1, config.num_layers + 1):
            wider = config.base_channels * min(2**depth, _MAX_CHANNELS_FACTOR)
            stride = 2 if depth < config.num_layers else 1
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(math.gcd(_MAX_GROUPS, wider), wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*layers)
        with seeded(config.seed):
            self.apply(_draw_weights)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to logits (B, 1, h, w); positive means original."""
        logits: Tensor = self.layers(images)
        return logits


def hinge_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The discriminator's loss of each pair of original and reconstruction, (B,).

    0.5 * (mean of max(0, 1 - real) + mean of max(0, 1 + fake)) over patches.

    Source: Lim and Ye 2017, arXiv:1705.02894; the half is VQGAN's, arXiv:2012.09841.
    """
    real = torch.relu(1 - real_logits.float()).flatten(1).mean(1)
    fake = torch.relu(1 + fake_logits.float()).flatten(1).mean(1)
    return 0.5 * (real + fake)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """What the generator wants of each reconstruction, (B,): minus the mean logit."""
    return -fake_logits.float().flatten(1).mean(1)


def _draw_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
