"""Build diffusers' denoisers: from a diffusers folder, from settings, or a named architecture."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sd_core.model.precision import seeded
from sd_core.model.weights import WeightsError

UNET: Final = "UNet2DConditionModel"
TRANSFORMER: Final = "PixArtTransformer2DModel"
CLASSES: Final = (UNET, TRANSFORMER)

_STABLE_DIFFUSION: Final[dict[str, Any]] = {
    "_class_name": UNET,
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
    "sd-v1": _STABLE_DIFFUSION,
    "sd-v2": {
        **_STABLE_DIFFUSION,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sd-xl": {
        **_STABLE_DIFFUSION,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "tiny": {
        **_STABLE_DIFFUSION,
        "sample_size": 16,
        "layers_per_block": 1,
        "block_out_channels": [64, 128, 160],
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "attention_head_dim": 4,
        "cross_attention_dim": 128,
    },
}
"""Known denoisers, for random weights of their size; `tiny` fits the tiny presets."""


def build_module(settings: dict[str, Any], *, seed: int, where: str) -> nn.Module:
    """Build a denoiser of `settings` (`_class_name` among them) with weights drawn from `seed`.

    Raises:
        WeightsError: the class is not supported or refuses the settings.
    """
    model_class = denoiser_class(settings, where=where)
    try:
        with seeded(seed):
            module: nn.Module = model_class.from_config(settings)
    except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
        name = settings["_class_name"]
        raise WeightsError(f"{where}: {name} cannot be built of these settings: {error}") from error
    return module


def load_module(folder: Path, *, where: str) -> nn.Module:
    """Load a denoiser's diffusers folder in float32 on the CPU.

    Raises:
        WeightsError: no such folder, no safetensors, or they do not fit its config.json.
    """
    settings = read_settings(folder, where=where)
    model_class = denoiser_class(settings, where=f"{where}: {folder}")
    try:
        module, report = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise WeightsError(
            f"{where}: {folder} does not load as {settings['_class_name']} from safetensors: "
            f"{error}"
        ) from error
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise WeightsError(
            f"{where}: {folder} does not fit its config.json: {len(wrong)} keys are missing or "
            f"unknown, {wrong[0]} for one"
        )
    loaded: nn.Module = module
    return loaded


def read_settings(folder: Path, *, where: str) -> dict[str, Any]:
    """The `config.json` of a diffusers model folder; raises `WeightsError`."""
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{where}: {folder} holds no config.json, so it is no diffusers model folder (of a "
            "whole pipeline, name its unet or transformer subfolder)"
        )
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def denoiser_class(settings: dict[str, Any], *, where: str) -> Any:
    """The diffusers class that `settings` names; raises `WeightsError` if it is no denoiser."""
    name = settings.get("_class_name")
    if name not in CLASSES:
        found = f"a {name}" if name else "a model without _class_name"
        raise WeightsError(f"{where}: {found}; a denoiser is a {' or a '.join(CLASSES)}")
    import diffusers

    return getattr(diffusers, name)
