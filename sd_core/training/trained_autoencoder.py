"""An autoencoder as it is trained: what it starts from, and one call that a worker can wrap."""

from typing import Any, Final, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.autoencoder_loading import load_autoencoder_module
from sd_core.model.config import ModelConfig
from sd_core.model.precision import seeded
from sd_core.model.weights import WeightsError, WeightsNeed, loads_weights

_CLASSES: Final = ("AutoencoderKL", "VQModel")
_DIGITS: Final = 5  # of the scaling factor, behind the point


class TrainedAutoencoderConfig(ModelConfig):
    """What training starts from: an architecture with random weights, or a trained one."""

    settings: dict[str, Any] | None = None
    """diffusers' configuration, `_class_name` (AutoencoderKL or VQModel) among it."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the random weights."""
    initial_log_variance: float | None = None
    """Added to the log-variance that random weights give, so that latents start with little noise;
    AutoencoderKL only. Unit: log-variance."""
    model: str | None = None
    """Instead: a reference to a diffusers folder to go on from."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of that folder."""

    @model_validator(mode="after")
    def _check(self) -> "TrainedAutoencoderConfig":
        if (self.settings is None) == (self.model is None):
            raise ValueError("give one of settings and model")
        if self.settings is not None and self.settings.get("_class_name") not in _CLASSES:
            raise ValueError(f"settings._class_name must be {' or '.join(_CLASSES)}")
        return self

    def weight_needs(self) -> list[WeightsNeed]:
        """What `check_weights` must find."""
        return [] if self.model is None else [WeightsNeed("model.model", self.model, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change the result."""
        if self.model is None:
            return self.model_dump(mode="json", exclude={"model", "sha256"})
        return AutoencoderConfig(model=self.model, sha256=self.sha256).identity()


class Reconstruction(NamedTuple):
    """What one pass through an autoencoder gives; `mean` and `log_variance` of a posterior, or
    `latents` and `codes` of a codebook, each (B, C, h, w)."""

    images: Tensor
    mean: Tensor | None = None
    log_variance: Tensor | None = None
    latents: Tensor | None = None
    codes: Tensor | None = None


class TrainedAutoencoder(nn.Module):
    """Wraps diffusers' AutoencoderKL or VQModel: images and noise in, reconstructions out."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.has_posterior = type(autoencoder).__name__ == "AutoencoderKL"

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weights, at which the adaptive weight is measured."""
        weight: Tensor = self.autoencoder.decoder.conv_out.weight
        return weight

    def latents_shape(self, *, resolution_px: int) -> tuple[int, int, int]:
        """(C, h, w) of an image's latents.

        Raises:
            WeightsError: the resolution is no multiple of the down-sampling.
        """
        settings = self.autoencoder.config
        downsampling = 2 ** (len(settings["block_out_channels"]) - 1)
        if resolution_px % downsampling:
            raise WeightsError(
                f"model: this autoencoder halves the sides to 1/{downsampling}, and the images' "
                f"{resolution_px} px are no multiple of it; curate at another image.size"
            )
        side = resolution_px // downsampling
        channels = settings["latent_channels"] if self.has_posterior else self._code_width
        return int(channels), side, side

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass.

        Raises:
            WeightsError: diffusers cannot, with this class.
        """
        if not self.autoencoder._supports_gradient_checkpointing:
            name = type(self.autoencoder).__name__
            raise WeightsError(
                f"loop.gradient_checkpointing: diffusers' {name} does not offer it; allowed: false"
            )
        self.autoencoder.enable_gradient_checkpointing()

    def encode(self, images: Tensor, noise: Tensor | None) -> Reconstruction:
        """The latents alone: mean and log-variance with `latents` drawn from them by standard
        normal `noise` (None: the mean), or those before quantisation."""
        encoded = self.autoencoder.encode(images)
        if not self.has_posterior:
            return Reconstruction(images, latents=encoded.latents)
        posterior = encoded.latent_dist
        latents = posterior.mean
        if noise is not None:
            latents = latents + posterior.std * noise.to(latents.dtype)
        return Reconstruction(images, posterior.mean, posterior.logvar, latents)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode and decode (B, 3, H, W) in [-1, 1]; noise (B, C, h, w) as `encode` takes it."""
        encoded = self.encode(images, noise)
        latents: Any = encoded.latents
        if self.has_posterior:
            return encoded._replace(images=self.autoencoder.decode(latents).sample)
        codes = self._nearest_codes(latents)
        passed = latents + (codes - latents).detach()  # straight through to the encoder
        images = self.autoencoder.decode(passed, force_not_quantize=True).sample
        return encoded._replace(images=images, codes=codes)

    @property
    def _code_width(self) -> int:
        return int(self.autoencoder.quantize.embedding.weight.shape[1])

    def _nearest_codes(self, latents: Tensor) -> Tensor:
        """The nearest entry of the codebook for each place, with gradients to the codebook."""
        embedding = self.autoencoder.quantize.embedding
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            nearest = torch.cdist(flat.float(), embedding.weight.float()).argmin(dim=1)
        batch, _, height, width = latents.shape
        codes: Tensor = embedding(nearest).view(batch, height, width, -1)
        return codes.permute(0, 3, 1, 2)


@loads_weights
def load_trained_autoencoder(config: TrainedAutoencoderConfig) -> TrainedAutoencoder:
    """Build or load it in float32 on the CPU, every weight asking for gradients.

    Raises:
        WeightsError: the weights cannot be had, or the class cannot be trained or built so.
    """
    if config.settings is not None:
        return TrainedAutoencoder(_build(config, config.settings))
    module = load_autoencoder_module(
        AutoencoderConfig(model=config.model or "", sha256=config.sha256)
    )
    name = type(module).__name__
    if name not in _CLASSES:
        raise WeightsError(
            f"model.model: {config.model} is a {name}; {' or '.join(_CLASSES)} can be trained"
        )
    return TrainedAutoencoder(module.float().requires_grad_(True))


def _build(config: TrainedAutoencoderConfig, settings: dict[str, Any]) -> nn.Module:
    import diffusers

    name = settings["_class_name"]
    try:
        with seeded(config.seed):
            built: Any = getattr(diffusers, name).from_config(settings)
    except (TypeError, ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise WeightsError(f"model.settings: {name} cannot be built of these: {error}") from error
    if config.initial_log_variance is not None:
        if name != "AutoencoderKL" or built.quant_conv is None:
            raise WeightsError(
                "model.initial_log_variance: only an AutoencoderKL with a quant_conv has one"
            )
        with torch.no_grad():
            built.quant_conv.bias[built.config["latent_channels"] :] += config.initial_log_variance
    module: nn.Module = built
    return module


@torch.inference_mode()
def measure_scaling_factor(
    autoencoder: TrainedAutoencoder, images: Tensor, *, batch_size: int
) -> float:
    """1 / standard deviation of the latents of (B, 3, H, W) images, drawn from their posteriors.

    The deviation is of means and posterior noise together, so no noise is drawn.

    Source: Rombach et al. 2022, arXiv:2112.10752, appendix G.
    """
    device = next(autoencoder.parameters()).device
    count, total, squares = 0, 0.0, 0.0
    for part in torch.split(images, batch_size):
        found = autoencoder.encode(part.to(device), None)
        latents: Any = found.latents
        values = latents.double()
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
        if found.log_variance is not None:
            squares += float(found.log_variance.double().exp().sum())
    variance = squares / count - (total / count) ** 2
    return float(round(variance**-0.5, _DIGITS))
