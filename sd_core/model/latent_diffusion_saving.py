"""Save a latent diffusion model as the diffusers folder that its pipelines open."""

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from sd_core.model.denoiser import class_name_of, unwrap_module
from sd_core.model.denoiser_loading import TRANSFORMER
from sd_core.model.noise_schedule import scheduler_of_noise_schedule

if TYPE_CHECKING:
    from sd_core.model.latent_diffusion import LatentDiffusion
    from sd_core.model.text_encoder import TextEncoder

_WEIGHTS_FILE: Final = "diffusion_pytorch_model.safetensors"


def save_latent_diffusion(model: "LatentDiffusion", folder: Path) -> None:
    """Write a diffusers pipeline folder, safetensors only, all of it or nothing.

    `StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)` opens it (a transformer
    denoiser's: `PixArtAlphaPipeline`, with embeddings given).

    Raises:
        FileExistsError: there is something at `folder`; nothing is overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name a new folder for the model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        temporary.chmod(0o755)
        _write_parts(model, temporary)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_parts(model: "LatentDiffusion", folder: Path) -> None:
    import diffusers

    denoiser = unwrap_module(model.denoiser)
    is_transformer = class_name_of(denoiser) == TRANSFORMER
    denoiser_name = "transformer" if is_transformer else "unet"
    _write_diffusers_module(denoiser, folder / denoiser_name)
    _write_diffusers_module(model.autoencoder.module, folder / "vae")
    text_module: Any = model.text_encoder.module
    text_module.save_pretrained(folder / "text_encoder")
    _write_tokenizer(model.text_encoder, folder / "tokenizer")
    version = {"_diffusers_version": diffusers.__version__}
    scheduler = {**scheduler_of_noise_schedule(model.noise_schedule.config), **version}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index: dict[str, Any] = {
        "_class_name": "PixArtAlphaPipeline" if is_transformer else "StableDiffusionPipeline",
        **version,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", type(text_module).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        denoiser_name: ["diffusers", class_name_of(denoiser)],
        "vae": ["diffusers", type(model.autoencoder.module).__name__],
    }
    if not is_transformer:
        index |= {
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
        }
    _write_json(folder / "model_index.json", dict(sorted(index.items())))


def _write_diffusers_module(module: nn.Module, folder: Path) -> None:
    """As diffusers' own `save_pretrained`, to the byte, but also of channels-last weights."""
    from safetensors.torch import save_file

    folder.mkdir()
    typed: Any = module
    typed.save_config(folder)
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / _WEIGHTS_FILE, metadata={"format": "pt"})


def _write_tokenizer(encoder: "TextEncoder", folder: Path) -> None:
    """With the encoder's length, to which pipelines pad."""
    tokenizer = copy.deepcopy(encoder.tokenizer)
    tokenizer.model_max_length = encoder.token_length
    tokenizer.save_pretrained(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
