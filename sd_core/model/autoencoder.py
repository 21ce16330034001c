"""Autoencoders: images to raw latents and back. Raw means unscaled; scaling is the cache's load.

Source: Rombach et al. 2022, section 3.1, arXiv:2112.10752.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sd_core.cache.spec import AutoencoderIdentity
from sd_core.model.autoencoder_config import (
    AUTOENCODER_CLASSES,
    AutoencoderConfig,
    AutoencoderKind,
)
from sd_core.model.autoencoder_loading import (
    autoencoder_settings,
    build_autoencoder,
    build_random_autoencoder,
    load_autoencoder_module,
    stored_digest,
)
from sd_core.model.memory import aligned, place_module
from sd_core.model.precision import model_dtype
from sd_core.model.single_file import is_single_file
from sd_core.model.weights import loads_weights, weights_sha256

LatentsForm = Literal["moments", "mean"]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """A loaded autoencoder in eval mode, and what its latents are."""

    module: nn.Module
    kind: AutoencoderKind
    latent_channels: int
    downsampling: int
    scaling_factor: float
    shift_factor: float
    device: torch.device
    dtype: torch.dtype
    slice_size: int | None
    weights_sha256: str
    """Of the weights in float32, whatever precision they run in."""

    @property
    def identity(self) -> AutoencoderIdentity:
        """What caches of its latents share."""
        return AutoencoderIdentity(
            **{name: getattr(self, name) for name in AutoencoderIdentity.model_fields}
        )

    @property
    def has_posterior(self) -> bool:
        """Whether it gives moments (KL), not only one latent (TAESD, VQ)."""
        return self.kind == "kl"


@loads_weights
def load_autoencoder(config: AutoencoderConfig, *, device: str | torch.device) -> Autoencoder:
    """Load an AutoencoderKL, AutoencoderTiny or VQModel.

    Raises:
        WeightsError: the weights cannot be had or do not fit.
    """
    module = (
        build_random_autoencoder(config)
        if not config.pretrained
        else load_autoencoder_module(config)
    )
    module = module.eval().requires_grad_(False)
    told = _told(module)
    digest = weights_sha256(module)
    dtype = model_dtype(config.precision, device)
    return Autoencoder(
        module=place_module(module, device=device, dtype=dtype),
        **told,
        device=torch.device(device),
        dtype=dtype,
        slice_size=config.slice_size or (1 if torch.device(device).type == "cpu" else None),
        weights_sha256=digest,
    )


def foresee_autoencoder(config: AutoencoderConfig) -> dict[str, Any]:
    """Fields of the loaded autoencoder's identity that a diffusers folder tells; else none.

    The digest of its weights is among them where they are stored under the names that they have
    in memory. Cost: the folder's weights are read once, a tensor at a time.

    Raises:
        WeightsError: as `autoencoder_settings`.
    """
    if is_single_file(config.model, where="autoencoder.model"):
        return {}
    settings = autoencoder_settings(config)
    if settings is None:
        return {}
    with torch.device("meta"):
        module = build_autoencoder(settings, config.kind, Path(config.model))
    digest = stored_digest(config, module) if config.pretrained else None
    return _told(module) | ({} if digest is None else {"weights_sha256": digest})


def _told(module: nn.Module) -> dict[str, Any]:
    settings: Any = module.config
    return {
        "kind": AUTOENCODER_CLASSES[type(module).__name__],
        "latent_channels": int(settings["latent_channels"]),
        "downsampling": _downsampling(module),
        "scaling_factor": float(settings["scaling_factor"]),
        "shift_factor": float(settings.get("shift_factor") or 0.0),
    }


def default_form(autoencoder: Autoencoder) -> LatentsForm:
    """Moments where there is a posterior, else the one latent there is."""
    return "moments" if autoencoder.has_posterior else "mean"


@torch.no_grad()  # not inference mode: a denoiser may learn from these
def encode_images(autoencoder: Autoencoder, images: Tensor, *, form: LatentsForm) -> Tensor:
    """Encode images to raw (unscaled) latents.

    Args:
        autoencoder: Frozen; runs in its own dtype, `slice_size` images at a time.
        images: (B, 3, H, W) RGB, float, in [-1, 1].
        form: `moments` gives the posterior's mean and log-variance (clamped to [-30, 20]) along
            the channels; `mean` its mean, TAESD's latent, or VQ's latent before quantisation.

    Returns:
        (B, C or 2C, h, w) float32 on the autoencoder's device; h = H / downsampling.

    Raises:
        ValueError: H or W is no multiple of `downsampling`, or moments of a model without them.
    """
    height, width = images.shape[-2:]
    if height % autoencoder.downsampling or width % autoencoder.downsampling:
        raise ValueError(
            f"{width}x{height} images: both sides must be multiples of {autoencoder.downsampling}"
        )
    if form == "moments" and not autoencoder.has_posterior:
        raise ValueError(f"a {autoencoder.kind} autoencoder has no moments; use form 'mean'")
    parts = torch.split(images, autoencoder.slice_size or len(images))
    return torch.cat([_encode_slice(autoencoder, part, form) for part in parts])


@torch.inference_mode()
def decode_latents(
    autoencoder: Autoencoder, raw_latents: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Decode raw (unscaled) latents.

    Args:
        autoencoder: Decodes `slice_size` rows at a time, where it has one.
        raw_latents: (B, C, h, w).
        batch_size: Else so many, always as many: the last ones are filled up with rows that are
            thrown away, so that no image depends on its company. None: B.

    Returns:
        (B, 3, H, W) float32 images in [-1, 1].
    """
    size = autoencoder.slice_size or batch_size or len(raw_latents)
    if missing := -len(raw_latents) % size:
        raw_latents = torch.cat([raw_latents, raw_latents[-1:].expand(missing, -1, -1, -1)])
    parts = torch.split(raw_latents, size)
    images = torch.cat([_decode_slice(autoencoder, part) for part in parts])
    return images[: len(images) - missing]


def _encode_slice(autoencoder: Autoencoder, images: Tensor, form: LatentsForm) -> Tensor:
    module: Any = autoencoder.module
    encoded = module.encode(aligned(images.to(device=autoencoder.device, dtype=autoencoder.dtype)))
    if not autoencoder.has_posterior:
        return encoded.latents.float()  # type: ignore[no-any-return]
    posterior = encoded.latent_dist
    moments = torch.cat([posterior.mean, posterior.logvar], dim=1)
    return (moments if form == "moments" else posterior.mean).float()


def _decode_slice(autoencoder: Autoencoder, raw_latents: Tensor) -> Tensor:
    module: Any = autoencoder.module
    latents = raw_latents.to(device=autoencoder.device, dtype=autoencoder.dtype)
    decoded = module.decode(aligned(latents))
    return decoded.sample.float().clamp_(-1, 1)  # type: ignore[no-any-return]


def _downsampling(module: nn.Module) -> int:
    """Each level but the last halves the sides; AutoencoderTiny's levels count the same."""
    settings: Any = module.config
    key = "encoder_block_out_channels"
    return int(2 ** (len(settings.get(key) or settings["block_out_channels"]) - 1))
