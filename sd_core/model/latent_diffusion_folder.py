"""What a diffusers pipeline folder holds, read from its index without its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sd_core.model.denoiser_loading import TRANSFORMER, UNET
from sd_core.model.noise_schedule import NoiseScheduleConfig, noise_schedule_of_scheduler
from sd_core.model.text_encoder_architectures import PLAIN_CLASS, PROJECTED_CLASS
from sd_core.model.weights import WeightsError, join_reference, public_reference, resolve_weights

_ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "vae": ("AutoencoderKL", "AutoencoderTiny", "VQModel"),
    "text_encoder": (PLAIN_CLASS,),
    "text_encoder_2": (PROJECTED_CLASS,),
    "unet": (UNET,),
    "transformer": (TRANSFORMER,),
}


@dataclass(frozen=True, kw_only=True)
class PipelineContents:
    """The denoiser's subfolder, whether there are XL's two text encoders, the noise schedules."""

    denoiser: str
    is_xl: bool
    noise_schedule: NoiseScheduleConfig
    low_res_noise_schedule: NoiseScheduleConfig | None = None
    """Of an upscaler's images of low resolution."""


def pipeline_contents(model: str, *, where: str) -> PipelineContents:
    """Read `model_index.json` and the schedulers' files of a diffusers folder.

    Raises:
        WeightsError: it is no diffusers folder, or of a pipeline with parts we do not support.
    """
    index = _read_json(model, "model_index.json", where=where)
    denoiser = "transformer" if "transformer" in index else "unet"
    is_xl = "text_encoder_2" in index
    parts = ["vae", "text_encoder", denoiser]
    for name in [*parts, "text_encoder_2"] if is_xl else parts:
        _check_part(index, name, model, where=where)
    has_low_res = "low_res_scheduler" in index
    return PipelineContents(
        denoiser=denoiser,
        is_xl=is_xl,
        noise_schedule=_schedule(model, "scheduler", where=where),
        low_res_noise_schedule=(
            _schedule(model, "low_res_scheduler", where=where) if has_low_res else None
        ),
    )


def _schedule(model: str, name: str, *, where: str) -> NoiseScheduleConfig:
    scheduler = _read_json(model, f"{name}/scheduler_config.json", where=where)
    return noise_schedule_of_scheduler(
        scheduler, where=f"{where}: {public_reference(model)}/{name}"
    )


def _check_part(index: dict[str, Any], name: str, model: str, *, where: str) -> None:
    entry = index.get(name)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found not in _ALLOWED[name]:
        raise WeightsError(
            f"{where}: {public_reference(model)} is a {index.get('_class_name', 'folder')} whose "
            f"{name} is {found or 'missing'}; supported: {', '.join(_ALLOWED[name])}"
        )


def _read_json(model: str, name: str, *, where: str) -> dict[str, Any]:
    path: Path = resolve_weights(join_reference(model, name), where=where)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{where}: {path} is no JSON: {error}") from error
    return content
