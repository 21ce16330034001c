"""Train an autoencoder against a discriminator: the LDM paper's first stage.

Source: Rombach et al. 2022, arXiv:2112.10752, appendix G; Esser et al. 2020, arXiv:2012.09841.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sd_core.model.config import ModelConfig
from sd_core.training.autoencoder_losses import (
    DiscriminatorConfig,
    PatchDiscriminator,
    adaptive_weight,
    codebook_loss,
    generator_loss,
    hinge_loss,
    kl_divergence,
    pixel_loss,
)
from sd_core.training.config import OptimizerConfig
from sd_core.training.image_batches import ImageBatch
from sd_core.training.perceptual import PerceptualConfig, load_perceptual_loss
from sd_core.training.task import Losses, TrainedPart
from sd_core.training.trained_autoencoder import Reconstruction, TrainedAutoencoder

GENERATOR = "generator"
DISCRIMINATOR = "discriminator"


class AutoencoderLossConfig(ModelConfig):
    """Weights of the parts of the loss; the defaults are the LDM paper's."""

    l1_weight: float = Field(default=1.0, ge=0)
    """Of the absolute differences."""
    l2_weight: float = Field(default=0.0, ge=0)
    """Of the squared differences, which the paper does without."""
    kl_weight: float = Field(default=1e-6, ge=0)
    """Of the KL divergence in nats of an image over its number of values (3 H W)."""
    codebook_weight: float = Field(default=1.0, ge=0)
    """VQModel: of the codebook and commitment losses."""
    commitment_weight: float = Field(default=0.25, ge=0)
    """VQModel: of the commitment within them."""
    perceptual: PerceptualConfig = PerceptualConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()

    def identity(self) -> dict[str, Any]:
        """The options that change the result."""
        plain = self.model_dump(mode="json", exclude={"perceptual"})
        return plain | {"perceptual": self.perceptual.identity()}


class AutoencoderTask:
    """Two parts: the generator (the autoencoder), then the discriminator where it has a weight.

    Args:
        autoencoder: On any device; the trainer moves it.
        losses: What its reconstructions cost.
        optimizer: Of both parts.
        ema_decay: Of the autoencoder's averages.
        device: Where LPIPS runs, the trainer's.

    Raises:
        WeightsError: LPIPS is wanted and its weights cannot be had.
    """

    def __init__(
        self,
        autoencoder: TrainedAutoencoder,
        *,
        losses: AutoencoderLossConfig,
        optimizer: OptimizerConfig,
        ema_decay: float | None,
        device: torch.device,
    ) -> None:
        self.autoencoder = autoencoder
        self._config = losses
        self._perceptual = load_perceptual_loss(losses.perceptual, device=device)
        self._discriminator: PatchDiscriminator | None = None
        self._parts = [
            TrainedPart(
                name=GENERATOR, module=autoencoder, optimizer=optimizer, ema_decay=ema_decay
            )
        ]
        if losses.discriminator.weight:
            self._discriminator = PatchDiscriminator(losses.discriminator)
            self._parts.append(
                TrainedPart(name=DISCRIMINATOR, module=self._discriminator, optimizer=optimizer)
            )

    @property
    def parts(self) -> Sequence[TrainedPart]:
        """The generator, then the discriminator if there is one."""
        return self._parts

    def losses(
        self, part: str, modules: Mapping[str, nn.Module], batch: ImageBatch, *, step: int
    ) -> Losses | None:
        """Each image's loss; the discriminator's is None before its first step."""
        is_adversarial = step >= self._config.discriminator.start_step
        if part == GENERATOR:
            return self._generator_losses(modules[part], batch, is_adversarial=is_adversarial)
        if not is_adversarial:
            return None
        with torch.no_grad():
            fake = self.autoencoder(batch.images, batch.noise).images
        logits = modules[part](torch.cat([batch.images, fake.to(batch.images.dtype)]))
        real_logits, fake_logits = logits.float().chunk(2)
        return Losses(
            losses=hinge_loss(real_logits, fake_logits),
            metrics={"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()},
        )

    def _generator_losses(
        self, module: nn.Module, batch: ImageBatch, *, is_adversarial: bool
    ) -> Losses:
        config, found = self._config, module(batch.images, batch.noise)
        likelihood = pixel_loss(
            found.images, batch.images, l1_weight=config.l1_weight, l2_weight=config.l2_weight
        )
        metrics = {"l1": (found.images.float() - batch.images).abs().mean()}
        if self._perceptual is not None:
            distance = self._perceptual(found.images, batch.images)
            metrics["perceptual"] = distance.mean()
            likelihood = likelihood + config.perceptual.weight * distance
        losses = likelihood + self._regularisation(found, batch.images, metrics)
        if is_adversarial and self._discriminator is not None:
            with _frozen(self._discriminator):
                adversarial = generator_loss(self._discriminator(found.images))
            weight = adaptive_weight(
                likelihood.mean(), adversarial.mean(), self.autoencoder.last_layer
            )
            metrics |= {"adversarial": adversarial.mean(), "adaptive_weight": weight}
            losses = losses + config.discriminator.weight * weight * adversarial
        return Losses(losses=losses, metrics=metrics)

    def _regularisation(
        self, found: Reconstruction, images: Tensor, metrics: dict[str, Tensor]
    ) -> Tensor:
        if found.mean is not None and found.log_variance is not None:
            divergence = kl_divergence(found.mean, found.log_variance)
            metrics["kl"] = divergence.mean()
            return self._config.kl_weight * divergence / images[0].numel()
        if found.latents is None or found.codes is None:
            raise TypeError("an autoencoder gives a posterior or codes")
        weight = self._config.commitment_weight
        loss = codebook_loss(found.latents, found.codes, commitment_weight=weight)
        metrics["codebook"] = loss.mean()
        return self._config.codebook_weight * loss


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """What is computed meanwhile has no gradients to the module's weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
