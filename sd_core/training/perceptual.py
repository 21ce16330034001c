"""LPIPS, a distance between images that agrees with people; its weights must be the real ones.

The linear layers ship with the `lpips` package; VGG16's ImageNet weights do not.
"""

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sd_core.model.config import ModelConfig
from sd_core.model.memory import place_module
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    loads_weights,
    resolve_weights,
    weights_identity,
)

_KEY: Final = "losses.perceptual.backbone"


class PerceptualConfig(ModelConfig):
    """The perceptual part of the loss."""

    weight: float = Field(default=1.0, ge=0)
    """0 switches it off; no weights are needed then."""
    backbone: str | None = None
    """A reference to VGG16's ImageNet weights in torchvision's layout (`features.0.weight`, ...),
    as safetensors or torchvision's own vgg16-397923af.pth."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of that file."""

    def weight_needs(self) -> list[WeightsNeed]:
        """What `check_weights` must find.

        Raises:
            WeightsError: LPIPS has a weight and no backbone is named.
        """
        return [WeightsNeed(_KEY, _named(self), self.sha256)] if self.weight else []

    def identity(self) -> dict[str, Any]:
        """The options that change the loss."""
        if not self.weight:
            return {"weight": 0.0}
        return {"weight": self.weight, **weights_identity(_named(self), self.sha256)}


class PerceptualLoss(nn.Module):
    """LPIPS with VGG16, version 0.1, frozen, in float32 whatever the training's precision.

    Source: Zhang et al. 2018, arXiv:1801.03924.
    """

    def __init__(self, lpips: nn.Module) -> None:
        super().__init__()
        self.lpips = lpips.eval().requires_grad_(False)

    def forward(self, reconstructions: Tensor, images: Tensor) -> Tensor:
        """Distances (B,) of two batches (B, 3, H, W) in [-1, 1]."""
        with torch.autocast(images.device.type, enabled=False):
            distances: Tensor = self.lpips(reconstructions.float(), images.float())
        return distances.flatten()


@loads_weights
def load_perceptual_loss(
    config: PerceptualConfig, *, device: torch.device
) -> PerceptualLoss | None:
    """LPIPS with its real weights; None where its weight is 0.

    Raises:
        WeightsError: the backbone's weights cannot be had or are not VGG16's; random ones are
            never used.
    """
    if not config.weight:
        return None
    path = resolve_weights(_named(config), sha256=config.sha256, where=_KEY)
    return place_module(PerceptualLoss(_build_lpips(_read_state(path), path)), device=device)


def _named(config: PerceptualConfig) -> str:
    if config.backbone is None:
        raise WeightsError(f"{_KEY}: LPIPS has weight {config.weight} and no weights; {_ADVICE}")
    return config.backbone


def _build_lpips(backbone: dict[str, Tensor], path: Path) -> nn.Module:
    """LPIPS of the package's own linear layers and the given VGG16; nothing in it is random."""
    try:
        import lpips
    except ImportError as error:
        raise WeightsError(
            "losses.perceptual: the package lpips is missing; pip install lpips, or set "
            "losses.perceptual.weight to 0"
        ) from error
    with warnings.catch_warnings(), torch.device("meta"):
        # It asks torchvision in a way that torchvision has deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model: nn.Module = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    model.scaling_layer = lpips.ScalingLayer()
    layers = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"
    state = torch.load(layers, map_location="cpu", weights_only=True)
    state |= _backbone_state(model.get_submodule("net"), backbone, path)
    model.load_state_dict(state, strict=False, assign=True)
    return model


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError, EOFError, KeyError) as error:
        raise WeightsError(f"{_KEY}: {path} cannot be read: {error}; {_ADVICE}") from error
    except Exception as error:  # pickle's own errors share no base with the others
        raise WeightsError(f"{_KEY}: {path} holds more than weights: {error}; {_ADVICE}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{_KEY}: {path} holds a {type(state).__name__}; {_ADVICE}")
    return state


def _backbone_state(slices: nn.Module, found: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """LPIPS' slices (`net.slice2.5.weight`) from torchvision's layers (`features.5.weight`)."""
    state = slices.state_dict()
    names = {name: f"features.{name.partition('.')[2]}" for name in state}
    wrong = [
        source
        for name, source in names.items()
        if source not in found or found[source].shape != state[name].shape
    ]
    if wrong:
        raise WeightsError(
            f"{_KEY}: {path} is not VGG16: {len(wrong)} of {len(names)} tensors are missing or of "
            f"another shape, {wrong[0]} for one; {_ADVICE}"
        )
    return {f"net.{name}": found[source].float() for name, source in names.items()}


_ADVICE: Final = (
    "give VGG16's ImageNet weights in torchvision's layout (vgg16-397923af.pth, or safetensors), "
    "or set losses.perceptual.weight to 0"
)
