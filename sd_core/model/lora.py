"""LoRA files: low-rank changes of a model's weights, added to them when it is loaded.

Sources: Hu et al. 2021, arXiv:2106.09685; its rank-stabilised scale, Kalajdzievski 2023,
arXiv:2312.03732; DoRA, Liu et al. 2024, arXiv:2402.09353.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sd_core.model.config import ModelConfig
from sd_core.model.denoiser import unwrap_module
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.lora_file import read_lora
from sd_core.model.lora_layers import LoraLayer, match_layers
from sd_core.model.memory import aligned
from sd_core.model.text_encoder import rehashed
from sd_core.model.weights import WeightsNeed, resolve_weights, weights_identity


class LoraConfig(ModelConfig):
    """One LoRA file and how much of it counts."""

    model: str = Field(min_length=1)
    """A reference to a .safetensors file (`/a/file.safetensors`, `hub:org/name@revision/file`), or
    to a folder that peft wrote (`adapter_model.safetensors` with `adapter_config.json`, or folders
    `unet`, `text_encoder` and `text_encoder_2` of them)."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the file or folder."""
    scale: float = Field(default=1.0, ge=-10, le=10)
    """How much of it is added: 1 is the file as it is, 0 nothing. Unit: factor."""

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        return [WeightsNeed(f"{where}.model", self.model, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change the weights, as plain JSON without secrets."""
        return {"scale": self.scale, **weights_identity(self.model, self.sha256)}


def fuse_loras(
    model: LatentDiffusion, loras: Sequence[LoraConfig], *, where: str
) -> LatentDiffusion:
    """Add the files' changes to the denoiser's and the text encoders' weights, in place.

    Returns:
        The model; the hashes of text encoders are those of what they are now.

    Raises:
        WeightsError: a file cannot be had or is not one of safetensors.
        SettingsError: any of its tensors would not be applied; the error names it.
    """
    if not loras:
        return model
    for number, lora in enumerate(loras):
        for found in match_lora(lora, model_parts(model), where=f"{where}.{number}.model"):
            _add(found, scale=lora.scale)
    rehashes = {part: rehashed(encoder) for part, encoder in model.text_encoders.items()}
    return replace(model, text_encoders=rehashes)


def match_lora(lora: LoraConfig, parts: Mapping[str, nn.Module], *, where: str) -> list[LoraLayer]:
    """A file's changes and the layers that they are for; the parts' weights are not looked at.

    Raises:
        WeightsError, SettingsError: as `fuse_loras`.
    """
    path: Path = resolve_weights(lora.model, sha256=lora.sha256, where=where)
    return match_layers(read_lora(path, where=where), parts, where=f"{where}: {path.name}")


def model_parts(model: LatentDiffusion) -> dict[str, nn.Module]:
    """What a file may change, by the names that files use."""
    texts = {
        part: encoder.module
        for part, encoder in model.text_encoders.items()
        if encoder.shape.kind == "clip"
    }
    return {"unet": unwrap_module(model.denoiser), **texts}


@torch.no_grad()
def _add(found: LoraLayer, *, scale: float) -> None:
    """W + s U D, or m (W + s U D) / |W + s U D| row by row with DoRA, in float32."""
    weight, pair = found.layer.weight, found.pair
    assert pair.down is not None
    assert pair.up is not None
    down, up = (aligned(half.to(weight.device, torch.float32)) for half in (pair.down, pair.up))
    change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    summed = weight.float() + change * (_scaling(found) * scale)
    if pair.magnitude is not None:
        summed = summed * _row_factors(summed, pair.magnitude.to(weight.device))
    weight.copy_(summed)


def _scaling(found: LoraLayer) -> float:
    pair = found.pair
    assert pair.down is not None
    if pair.alpha is not None:
        return float(pair.alpha.float().item()) / len(pair.down)
    return 1.0 if pair.settings is None else pair.settings.scaling_of(found.name)


def _row_factors(weight: Tensor, magnitude: Tensor) -> Tensor:
    """What brings each output's row to its magnitude."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return (magnitude.float().flatten() / norms).reshape(-1, *[1] * (weight.ndim - 1))
