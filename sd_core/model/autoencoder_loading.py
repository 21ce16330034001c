"""Build diffusers' autoencoders: from a diffusers folder, TAESD's two files, or at random."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sd_core.model.autoencoder_config import (
    AUTOENCODER_ARCHITECTURES,
    AUTOENCODER_CLASSES,
    STABLE_DIFFUSION,
    AutoencoderConfig,
)
from sd_core.model.autoencoder_settings import check_autoencoder_settings
from sd_core.model.precision import seeded
from sd_core.model.single_file import detect_layout, fill_from_single_file, is_single_file
from sd_core.model.single_file_names import AUTOENCODER_PREFIX, autoencoder_source
from sd_core.model.weight_files import (
    DIFFUSERS_STEM,
    settings_in,
    stored_shapes,
    stored_tensors,
    weight_files,
)
from sd_core.model.weights import WeightsError, resolve_weights, tensors_sha256


def load_autoencoder_module(config: AutoencoderConfig) -> nn.Module:
    """Load the weights that `config` names; raises `WeightsError`."""
    if is_single_file(config.model, where="autoencoder.model"):
        return _load_from_file(config)
    folder = resolve_weights(config.model, sha256=config.sha256, where="autoencoder.model")
    if not folder.is_dir():
        raise WeightsError(f"autoencoder.model: {folder} is a file; a folder is needed")
    if config.kind == "taesd" or (config.kind == "auto" and _is_taesd(folder)):
        return _load_taesd(folder)
    class_name = _class_name(_read_config(folder), config.kind, folder)
    try:
        module, report = _diffusers_class(class_name).from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"autoencoder.model: {folder} does not load as {class_name} from safetensors: {error}"
        ) from error
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise WeightsError(
            f"autoencoder.model: {folder} does not fit its config.json: {len(wrong)} keys are "
            f"missing or unknown, {wrong[0]} for one"
        )
    loaded: nn.Module = module
    return loaded


def _load_from_file(config: AutoencoderConfig) -> nn.Module:
    """Load the `first_stage_model` of a single-file checkpoint."""
    where = "autoencoder.model"
    path = resolve_weights(config.model, sha256=config.sha256, where=where)
    layout = detect_layout(path, where=where)
    if config.layout is not None:
        settings = _read_config(resolve_weights(config.layout, where=where))
    else:
        settings = AUTOENCODER_ARCHITECTURES["sd-xl" if layout == "sd-xl" else "sd-v1"]
    _class_name(settings, "kl", path)
    with torch.device("meta"):
        module: nn.Module = _diffusers_class("AutoencoderKL").from_config(settings)
    fill_from_single_file(
        module,
        path,
        source_of=partial(autoencoder_source, levels=len(settings["block_out_channels"])),
        prefix=AUTOENCODER_PREFIX,
        may_leave=lambda name: name.startswith(f"{AUTOENCODER_PREFIX}loss."),
        where=where,
    )
    return module


def autoencoder_settings(config: AutoencoderConfig) -> dict[str, Any] | None:
    """A folder's `config.json`, held against what is honoured; None where there is none.

    Raises:
        WeightsError: it cannot be had, or says what is not honoured.
    """
    where = "autoencoder.model"
    if config.model in AUTOENCODER_ARCHITECTURES:
        return AUTOENCODER_ARCHITECTURES[config.model]
    if is_single_file(config.model, where=where):
        if config.layout is None:
            return STABLE_DIFFUSION
        folder, kind = resolve_weights(config.layout, where=where), "kl"
    else:
        folder, kind = resolve_weights(config.model, where=where), config.kind
        if kind == "taesd" or (kind == "auto" and folder.is_dir() and _is_taesd(folder)):
            return None
        if config.pretrained and folder.is_dir():
            weight_files(folder, DIFFUSERS_STEM, where=where)
    settings = _read_config(folder)
    _class_name(settings, kind, folder)
    return settings


def stored_digest(config: AutoencoderConfig, module: nn.Module) -> str | None:
    """`weights_sha256` of the loaded module, from a diffusers folder's files.

    Args:
        module: The same without values.

    Returns:
        None where its tensors are stored under other names.
    """
    where = "autoencoder.model"
    folder = resolve_weights(config.model, where=where)
    files = weight_files(folder, DIFFUSERS_STEM, where=where)
    if stored_shapes(files, where=where).keys() != module.state_dict().keys():
        return None
    return tensors_sha256(stored_tensors(files))


def build_random_autoencoder(config: AutoencoderConfig) -> nn.Module:
    """Build the architecture that `config` names with weights drawn from its seed."""
    if config.model in AUTOENCODER_ARCHITECTURES:
        settings = AUTOENCODER_ARCHITECTURES[config.model]
    else:
        settings = _read_config(resolve_weights(config.model, where="autoencoder.model"))
    with seeded(config.seed):
        return build_autoencoder(settings, config.kind, Path(config.model))


def build_autoencoder(settings: dict[str, Any], kind: str, folder: Path) -> nn.Module:
    """The module of these settings, which `folder` holds; raises `WeightsError`."""
    module: nn.Module = _diffusers_class(_class_name(settings, kind, folder)).from_config(settings)
    return module


def _diffusers_class(name: str) -> Any:
    import diffusers

    return getattr(diffusers, name)


def _read_config(folder: Path) -> dict[str, Any]:
    advice = "diffusers folder (of a whole pipeline, name its vae subfolder)"
    return settings_in(folder, where="autoencoder.model", advice=advice)


def _class_name(settings: dict[str, Any], kind: str, folder: Path) -> str:
    named = [name for name, its in AUTOENCODER_CLASSES.items() if its == kind]
    allowed = named or list(AUTOENCODER_CLASSES)
    found = str(settings.get("_class_name", named[0] if named else ""))
    if found not in allowed:
        raise WeightsError(
            f"autoencoder.model: {folder} is a {found or 'model without _class_name'}; "
            f"expected {' or '.join(allowed)}"
        )
    where = f"autoencoder.model: {folder}/config.json"
    check_autoencoder_settings({**settings, "_class_name": found}, where=where)
    return found


def _is_taesd(folder: Path) -> bool:
    return not (folder / "config.json").exists() and bool(_taesd_file(folder, "encoder"))


def _taesd_file(folder: Path, part: str) -> Path | None:
    found = sorted(folder.glob(f"*{part}.safetensors"))
    return found[0] if len(found) == 1 else None


def _load_taesd(folder: Path) -> nn.Module:
    """Load TAESD's published layout: `*encoder.safetensors` and `*decoder.safetensors`.

    Its decoder opens with a clamp that diffusers keeps outside the layers, so decoder layer `i`
    of the file is layer `i - 1` there.
    """
    from safetensors.torch import load_file

    encoder, decoder = _taesd_file(folder, "encoder"), _taesd_file(folder, "decoder")
    if encoder is None or decoder is None:
        raise WeightsError(
            f"autoencoder.model: {folder} must hold one *encoder.safetensors and one "
            "*decoder.safetensors"
        )
    state: dict[str, Tensor] = {
        f"encoder.layers.{name}": tensor for name, tensor in load_file(encoder).items()
    }
    for name, tensor in load_file(decoder).items():
        index, _, rest = name.partition(".")
        state[f"decoder.layers.{int(index) - 1}.{rest}"] = tensor
    with seeded(0):
        module: nn.Module = _diffusers_class("AutoencoderTiny")()
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"autoencoder.model: {folder} does not fit TAESD: {error}") from error
    return module
