"""The diffusers pipeline folder of a latent diffusion model: what one holds, and how one is laid
out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sd_core.model.denoiser_loading import TRANSFORMER, UNET
from sd_core.model.noise_schedule import NoiseScheduleConfig, noise_schedule_of_scheduler
from sd_core.model.weights import WeightsError, join_reference, resolve_weights

_WHERE: Final = "model"
_ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "vae": ("AutoencoderKL", "AutoencoderTiny", "VQModel"),
    "text_encoder": ("CLIPTextModel",),
    "unet": (UNET,),
    "transformer": (TRANSFORMER,),
}


@dataclass(frozen=True, kw_only=True)
class PipelineContents:
    """What a pipeline folder holds: the denoiser's subfolder and the noise schedule."""

    denoiser: str
    noise_schedule: NoiseScheduleConfig


def pipeline_contents(model: str, *, sha256: str | None = None) -> PipelineContents:
    """Read `model_index.json` and the scheduler's file of a diffusers folder.

    Raises:
        WeightsError: it is no diffusers folder, or of a pipeline with parts we do not support.
    """
    if sha256 is not None:
        resolve_weights(model, sha256=sha256, where=_WHERE)
    index = _read_json(model, "model_index.json")
    denoiser = "transformer" if "transformer" in index else "unet"
    for name in ("vae", "text_encoder", denoiser):
        _check_part(index, name, model)
    scheduler = _read_json(model, "scheduler/scheduler_config.json")
    where = f"{_WHERE}: {model}/scheduler"
    return PipelineContents(
        denoiser=denoiser, noise_schedule=noise_schedule_of_scheduler(scheduler, where=where)
    )


def _check_part(index: dict[str, Any], name: str, model: str) -> None:
    entry = index.get(name)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found not in _ALLOWED[name]:
        raise WeightsError(
            f"{_WHERE}: {model} is a {index.get('_class_name', 'folder')} whose {name} is "
            f"{found or 'missing'}; supported: {', '.join(_ALLOWED[name])}"
        )


def _read_json(model: str, name: str) -> dict[str, Any]:
    path: Path = resolve_weights(join_reference(model, name), where=_WHERE)
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{_WHERE}: {path} is no JSON: {error}") from error
    return content
