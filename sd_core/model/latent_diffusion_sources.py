"""The folders that a model's parts came from, and whether a part still is what its folder holds."""

import shutil
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from sd_core.model.latent_diffusion_config import LatentDiffusionSections
from sd_core.model.single_file import is_single_file
from sd_core.model.text_encoder import TextEncoderConfig
from sd_core.model.text_encoder_loading import tokenizer_folder
from sd_core.model.weight_files import (
    DIFFUSERS_STEM,
    TRANSFORMERS_STEM,
    stored_tensors,
    weight_files,
)
from sd_core.model.weights import WeightsError, join_reference, resolve_weights


def source_folders(sections: LatentDiffusionSections) -> dict[str, Path]:
    """The diffusers folders that the sections name, by the subfolder a pipeline keeps them in.

    Parts with random weights, of a single file or of an open_clip model have none.
    """
    references: dict[str, str] = {}
    if sections.autoencoder.pretrained:
        references["vae"] = sections.autoencoder.model
    if not sections.denoiser.is_random:
        references["denoiser"] = str(sections.denoiser.model)
    for part, section in sections.text_encoders.items():
        references |= _text_references(part, section)
    folders = {
        name: resolve_weights(reference, where=name)
        for name, reference in references.items()
        if not is_single_file(reference, where=name)
    }
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def holds_same_weights(module: nn.Module, folder: Path) -> bool:
    """Whether a folder's safetensors, in the module's own dtypes, are the module's weights.

    Stops at the first tensor that differs.
    """
    expected = {_bare(name): tensor for name, tensor in module.state_dict().items()}
    seen: set[int] = set()  # by their memory: a tensor that has two names is stored once
    for name, found in stored_tensors(_weight_files(folder)):
        tensor = expected.get(_bare(name))
        if tensor is None:
            if name.endswith("position_ids"):
                continue
            return False
        if not torch.equal(found.to(tensor.dtype), tensor.detach().cpu()):
            return False
        seen.add(tensor.data_ptr())
    return all(tensor.data_ptr() in seen for tensor in expected.values())


def copy_model_files(source: Path, folder: Path) -> None:
    """Copy a part's `config.json` and full weights, and nothing else."""
    folder.mkdir()
    for path in [*_weight_files(source), *source.glob("*.safetensors.index.json")]:
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(source / "config.json", folder / "config.json")


def copy_plain_files(source: Path, folder: Path) -> None:
    """Copy the files of a folder without subfolders, such as a tokenizer's."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _text_references(part: str, section: TextEncoderConfig) -> dict[str, str]:
    if section.model is None or not section.pretrained:
        return {}
    if is_single_file(section.model, where=part):
        return {}
    tokenizer = tokenizer_folder(section.part)
    return {
        part: join_reference(section.model, section.part),
        tokenizer_folder(part): join_reference(section.model, tokenizer),
    }


def _weight_files(folder: Path) -> list[Path]:
    for stem in (DIFFUSERS_STEM, TRANSFORMERS_STEM):
        with suppress(WeightsError):
            return weight_files(folder, stem, where="")
    return []


def _bare(name: str) -> str:
    """transformers 4 nests a text model one level deeper than 5."""
    return name.removeprefix("text_model.")
