"""Tells reconstructions from originals patch by patch, and what both sides learn from it."""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from sd_core.model.config import ModelConfig
from sd_core.model.precision import seeded

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
