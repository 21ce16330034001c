"""Build diffusers' denoisers: from a diffusers folder, from settings, or a named architecture."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from sd_core.model.denoiser_settings import check_denoiser_settings
from sd_core.model.denoisers import DENOISERS
from sd_core.model.mmdit import MMDIT
from sd_core.model.precision import seeded
from sd_core.model.single_file import detect_layout, fill_from_single_file, open_single_file
from sd_core.model.single_file_names import DENOISER_PREFIX, denoiser_source
from sd_core.model.unet import UNET
from sd_core.model.weight_files import DIFFUSERS_STEM, settings_in, stored_shapes, weight_files
from sd_core.model.weights import WeightsError

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
_MMDIT: Final[dict[str, Any]] = {
    "_class_name": MMDIT,
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
DENOISER_ARCHITECTURES: Final[dict[str, dict[str, Any]]] = {
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
    "sd-3-medium": _MMDIT,
    "sd-3.5-medium": {
        **_MMDIT,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    },
    "sd-3.5-large": {
        **_MMDIT,
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "qk_norm": "rms_norm",
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


def load_denoiser_module(folder: Path, *, where: str) -> nn.Module:
    """Load a denoiser's diffusers folder in float32 on the CPU.

    Raises:
        WeightsError: no such folder, no safetensors, or they do not fit its config.json.
    """
    settings = read_settings(folder, where=where)
    module = build_empty(settings, where=f"{where}: {folder}/config.json")
    state = read_state(folder, where=where)
    _check_shapes(module, {n: tuple(t.shape) for n, t in state.items()}, folder, where=where)
    module.load_state_dict(
        {name: tensor.to(torch.float32) for name, tensor in state.items()}, assign=True
    )
    return module


def check_denoiser_folder(folder: Path, *, where: str) -> None:
    """Hold the headers of a denoiser's weights against its `config.json`; none is loaded.

    Raises:
        WeightsError: as `load_denoiser_module`.
    """
    settings = read_settings(folder, where=where)
    shapes = stored_shapes(weight_files(folder, DIFFUSERS_STEM, where=where), where=where)
    family = DENOISERS.get(str(settings.get("_class_name")))
    if family is not None and not family.computes_tensors:
        module = build_empty(settings, where=f"{where}: {folder}/config.json")
        _check_shapes(module, shapes, folder, where=where)


def _check_shapes(
    module: nn.Module, found: Mapping[str, tuple[int, ...]], folder: Path, *, where: str
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    faults = {
        "missing": expected.keys() - found.keys(),
        "unknown": found.keys() - expected.keys(),
        "of another shape": {n for n in expected.keys() & found.keys() if expected[n] != found[n]},
    }
    for fault, names in faults.items():
        if names:
            raise WeightsError(
                f"{where}: {folder} does not fit its config.json: {len(names)} tensors are "
                f"{fault}, {min(names)} for one"
            )


def load_denoiser_file(path: Path, *, layout_folder: Path | None, where: str) -> nn.Module:
    """Load the UNet of a single-file checkpoint in float32 on the CPU.

    `layout_folder` holds a `config.json` that tells its sizes instead of the known ones.

    Raises:
        WeightsError: it is of no known architecture.
    """
    settings = denoiser_settings_of_file(path, layout_folder=layout_folder, where=where)
    module: Any = build_empty(settings, where=where)
    attends = tuple(name.startswith("CrossAttn") for name in module.config["up_block_types"])
    fill_from_single_file(
        module,
        path,
        source_of=partial(
            denoiser_source,
            layers_per_block=int(module.config["layers_per_block"]),
            attends=attends,
        ),
        prefix=DENOISER_PREFIX,
        where=where,
    )
    filled: nn.Module = module
    return filled


def denoiser_settings_of_file(
    path: Path, *, layout_folder: Path | None, where: str
) -> dict[str, Any]:
    """What the UNet of a single-file checkpoint is built of, as `load_denoiser_file`."""
    layout = detect_layout(path, where=where)
    if layout_folder is None:
        return {
            **DENOISER_ARCHITECTURES[layout],
            "in_channels": _channels_of_file(path, where=where),
        }
    settings = read_settings(layout_folder, where=where)
    if settings.get("_class_name") != UNET:
        raise WeightsError(f"{where}: the layout {layout_folder} is not of a {UNET}")
    if settings.get("time_cond_proj_dim") is not None:
        raise WeightsError(
            f"{where}: the layout's time_cond_proj_dim is {settings['time_cond_proj_dim']}; "
            "allowed: null, as a single file has no name for it; use the model's diffusers folder"
        )
    return settings


def _channels_of_file(path: Path, *, where: str) -> int:
    """What the UNet of a checkpoint takes: 4 channels, or 9 of inpainting."""
    with open_single_file(path, where=where) as stream:
        name = f"{DENOISER_PREFIX}input_blocks.0.0.weight"
        if name not in stream.keys():  # noqa: SIM118  (no mapping)
            raise WeightsError(f"{where}: {path} is of another architecture: {name} is missing")
        return int(stream.get_slice(name).get_shape()[1])


def read_state(folder: Path, *, where: str) -> dict[str, Tensor]:
    """All tensors of a diffusers model folder, in one file or several, on the CPU.

    Raises:
        WeightsError: there is no safetensors file of full weights, or it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for path in weight_files(folder, DIFFUSERS_STEM, where=where):
        try:
            state |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{where}: {path} cannot be read: {error}") from error
    return state


def build_empty(settings: dict[str, Any], *, where: str) -> nn.Module:
    """A module without values; with values where some of its tensors are computed."""
    family = DENOISERS.get(str(settings.get("_class_name")))
    if family is None or family.computes_tensors:
        return build_module(settings, seed=0, where=where)
    with torch.device("meta"):
        return build_module(settings, seed=0, where=where)


def read_settings(folder: Path, *, where: str) -> dict[str, Any]:
    """The `config.json` of a diffusers model folder; raises `WeightsError`."""
    advice = "diffusers model folder (of a whole pipeline, name its unet or transformer subfolder)"
    return settings_in(folder, where=where, advice=advice)


def denoiser_class(settings: dict[str, Any], *, where: str) -> Any:
    """The diffusers class that `settings` names; raises `WeightsError` if it is no denoiser."""
    name = settings.get("_class_name")
    if name not in DENOISERS:
        found = f"a {name}" if name else "a model without _class_name"
        raise WeightsError(f"{where}: {found}; a denoiser is a {' or a '.join(DENOISERS)}")
    check_denoiser_settings(DENOISERS[str(name)].completed(settings), where=where)
    import diffusers

    return getattr(diffusers, str(name))
