"""Save a latent diffusion model as the diffusers folder that its pipelines open."""

import copy
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from sd_core.model.autoencoder import load_autoencoder
from sd_core.model.denoiser import class_name_of, unwrap_module
from sd_core.model.denoisers import DENOISERS
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.latent_diffusion_sources import (
    copy_model_files,
    copy_plain_files,
    holds_same_weights,
)
from sd_core.model.noise_schedule import low_res_schedule, scheduler_of_noise_schedule
from sd_core.model.quiet import without_progress_bars
from sd_core.model.task import Task
from sd_core.model.text_encoder import TextEncoder, load_text_encoder
from sd_core.model.text_encoder_loading import TEXT_PARTS, tokenizer_folder
from sd_core.model.weight_files import DIFFUSERS_STEM
from sd_core.model.weights import WeightsError

_SECOND: Final = "text_encoder_2"
_CLASSES: Final[dict[Task, str]] = {
    "text_to_image": "StableDiffusionPipeline",
    "inpainting": "StableDiffusionInpaintPipeline",
    "upscaling": "StableDiffusionUpscalePipeline",
}


def save_latent_diffusion(model: LatentDiffusion, folder: Path) -> None:
    """Write a diffusers pipeline folder, safetensors only, all of it or nothing.

    `StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)` opens it (XL's:
    `StableDiffusionXLPipeline`; of inpainting and upscaling `StableDiffusionInpaintPipeline` and
    `StableDiffusionUpscalePipeline`; a transformer denoiser's: `StableDiffusion3Pipeline`, or
    `PixArtAlphaPipeline`, which takes embeddings only). Parts that still are what their diffusers
    folder holds are copied, to the byte; the encoders are saved in float32 whatever they run in,
    the denoiser as it is.

    Raises:
        FileExistsError: there is something at `folder`; nothing is overwritten.
        WeightsError: an encoder runs in bf16 and its float32 weights cannot be had again.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name a new folder for the model")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        temporary.chmod(0o755)
        _write_pipeline(model, temporary)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part's subfolder, its module, and the folder that it came from."""

    name: str
    module: nn.Module
    source: Path | None

    def write(self, folder: Path) -> None:
        if self.source is not None and holds_same_weights(self.module, self.source):
            copy_model_files(self.source, folder / self.name)
        elif self.name in TEXT_PARTS:
            typed: Any = self.module
            with without_progress_bars():
                typed.save_pretrained(folder / self.name)
        else:
            _write_diffusers_module(self.module, folder / self.name)


def _write_pipeline(model: LatentDiffusion, folder: Path) -> None:
    import diffusers

    denoiser = unwrap_module(model.denoiser)
    denoiser_name = DENOISERS[class_name_of(denoiser)].part
    parts = [
        _Part(name=denoiser_name, module=denoiser, source=model.sources.get("denoiser")),
        *_encoder_parts(model),
    ]
    for part in parts:
        part.write(folder)
    index: dict[str, Any] = {
        "_class_name": _pipeline_class(model),
        "_diffusers_version": diffusers.__version__,
        **_options(model),
    }
    for part in parts:
        library = "transformers" if part.name in TEXT_PARTS else "diffusers"
        index[part.name] = [library, type(part.module).__name__]
    for name, encoder in model.text_encoders.items():
        tokenizer = tokenizer_folder(name)
        _write_tokenizer(encoder, folder / tokenizer, source=model.sources.get(tokenizer))
        is_clip = encoder.shape.kind == "clip"
        kind = "CLIPTokenizer" if is_clip else type(encoder.tokenizer).__name__
        index[tokenizer] = ["transformers", kind]
    for name, scheduler in _schedulers(model).items():
        scheduler["_diffusers_version"] = diffusers.__version__
        index[name] = ["diffusers", scheduler["_class_name"]]
        _write_json(folder / name / "scheduler_config.json", scheduler)
    _write_json(folder / "model_index.json", dict(sorted(index.items())))


def _schedulers(model: LatentDiffusion) -> dict[str, dict[str, Any]]:
    """A folder's own schedulers as they were; else those that say the same as our schedules."""
    own = model.noise_schedule.scheduler
    schedulers = {
        "scheduler": dict(own or scheduler_of_noise_schedule(model.noise_schedule.config))
    }
    if model.task == "upscaling":
        low_res = low_res_schedule(model.low_res_noise_schedule)
        schedulers["low_res_scheduler"] = dict(
            low_res.scheduler
            or {
                **scheduler_of_noise_schedule(low_res.config),
                "_class_name": "DDPMScheduler",  # the only one that the pipeline takes there
            }
        )
    return schedulers


def _pipeline_class(model: LatentDiffusion) -> str:
    own = DENOISERS[class_name_of(model.denoiser)].pipeline
    if own is not None:
        return own
    if _SECOND in model.text_encoders:
        if len(model.text_encoders) == 1:
            return "StableDiffusionXLImg2ImgPipeline"
        is_inpainting = model.task == "inpainting"
        return "StableDiffusionXLInpaintPipeline" if is_inpainting else "StableDiffusionXLPipeline"
    return _CLASSES[model.task]


def _options(model: LatentDiffusion) -> dict[str, Any]:
    """What the index says beside its parts: none of the pipelines' optional parts."""
    nothing: list[None] = [None, None]
    family = DENOISERS[class_name_of(model.denoiser)]
    left_out = {part: nothing for part in family.text_classes if part not in model.text_encoders}
    left_out |= {tokenizer_folder(part): nothing for part in left_out}
    if family.pipeline is not None:
        return dict(left_out)
    if model.task == "upscaling":
        parts = dict.fromkeys(("feature_extractor", "safety_checker", "watermarker"), nothing)
        level = None if model.sections is None else model.sections.max_noise_level
        return parts if level is None else {**parts, "max_noise_level": level}
    options: dict[str, Any] = {"feature_extractor": nothing, "image_encoder": nothing}
    if _SECOND in model.text_encoders:
        zeros = model.zeros_for_empty_prompt
        is_scored = model.num_time_ids == 5
        is_refiner = len(model.text_encoders) == 1
        score = {**left_out, "requires_aesthetics_score": is_scored} if is_refiner else {}
        return options | {"force_zeros_for_empty_prompt": zeros, **score}
    return options | {"requires_safety_checker": False, "safety_checker": nothing}


def _encoder_parts(model: LatentDiffusion) -> list[_Part]:
    """The frozen parts, loaded again in float32 where they run in less and have no folder."""
    encoders: dict[str, Any] = {"vae": model.autoencoder, **model.text_encoders}
    parts: list[_Part] = []
    for name, encoder in encoders.items():
        source = model.sources.get(name)
        module = encoder.module
        if encoder.dtype != torch.float32 and not (source and holds_same_weights(module, source)):
            module = _in_float32(model, name, encoder.weights_sha256)
        parts.append(_Part(name=name, module=module, source=source))
    return parts


def _in_float32(model: LatentDiffusion, name: str, weights_sha256: str) -> nn.Module:
    if model.sections is None:
        raise WeightsError(f"{name}: runs in bf16 and cannot be loaded again; load it in fp32")
    sections: Any = {"vae": model.sections.autoencoder, **model.sections.text_encoders}
    section = sections[name]
    config = section.model_copy(update={"precision": "fp32"})
    load: Any = load_autoencoder if name == "vae" else load_text_encoder
    loaded = load(config, device="cpu")
    if loaded.weights_sha256 != weights_sha256:
        raise WeightsError(
            f"{name}: runs in bf16, and its float32 weights are no longer at "
            f"{section.describe()}; load the model with precision fp32 to save it"
        )
    module: nn.Module = loaded.module
    return module


def _write_diffusers_module(module: nn.Module, folder: Path) -> None:
    """As diffusers' own `save_pretrained`, to the byte, but also of channels-last weights."""
    from safetensors.torch import save_file

    folder.mkdir()
    typed: Any = module
    typed.save_config(folder)
    state = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, folder / f"{DIFFUSERS_STEM}.safetensors", metadata={"format": "pt"})


def _write_tokenizer(encoder: TextEncoder, folder: Path, *, source: Path | None) -> None:
    """With CLIP's length, to which pipelines pad; T5's is given in each call."""
    is_told = encoder.shape.kind == "t5"
    if source is not None and (
        is_told or encoder.tokenizer.model_max_length == encoder.token_length
    ):
        copy_plain_files(source, folder)
        return
    tokenizer = copy.deepcopy(encoder.tokenizer)
    if not is_told:
        tokenizer.model_max_length = encoder.token_length
    tokenizer.save_pretrained(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
