"""What a diffusers pipeline folder holds, read from its index without its weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sd_core.model.autoencoder_config import AUTOENCODER_CLASSES
from sd_core.model.denoisers import DENOISERS
from sd_core.model.index_settings import LEFT_ALONE, check_index, mended_by_pipeline
from sd_core.model.noise_schedule import NoiseScheduleConfig, noise_schedule_of_scheduler
from sd_core.model.text_encoder_loading import TEXT_PARTS, TextPart, tokenizer_folder
from sd_core.model.weight_files import read_object
from sd_core.model.weights import WeightsError, join_reference, public_reference, resolve_weights

_ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "vae": tuple(AUTOENCODER_CLASSES),
    **{
        part: tuple(name for name, family in DENOISERS.items() if family.part == part)
        for part in ("unet", "transformer")
    },
}


@dataclass(frozen=True, kw_only=True)
class PipelineContents:
    """What the index and the schedulers' files say."""

    denoiser: str
    text_encoders: tuple[TextPart, ...]
    """Its parts that are text encoders, in order."""
    noise_schedule: NoiseScheduleConfig
    scheduler: Mapping[str, Any]
    """The scheduler's file as it stands, of the class that the index names."""
    low_res_noise_schedule: NoiseScheduleConfig | None = None
    """Of an upscaler's images of low resolution."""
    low_res_scheduler: Mapping[str, Any] | None = None
    zeros_for_empty_prompt: bool = False
    """Whether the unconditional text is zeros, not the encoded empty caption; XL's."""
    max_noise_level: int | None = None
    """Of an upscaler, where its index says so."""
    notices: tuple[str, ...] = ()
    """Parts of the folder that are left alone, for people."""


def pipeline_contents(model: str, *, where: str) -> PipelineContents:
    """Read `model_index.json` and the schedulers' files of a diffusers folder.

    Raises:
        WeightsError: it is no diffusers folder, or of a pipeline with parts we do not support.
    """
    index = _read_json(model, "model_index.json", where=where)
    path = f"{where}: {public_reference(model)}/model_index.json"
    check_index(index, where=path)
    denoiser = "transformer" if "transformer" in index else "unet"
    for name in ("vae", denoiser):
        _check_part(index, name, _ALLOWED[name], model, where=where)
    texts = _text_encoders(index, index[denoiser][1], model, where=where)
    is_xl = denoiser == "unet" and "text_encoder_2" in texts
    scheduler, schedule = _schedule(model, index, "scheduler", where=where)
    low_res_scheduler, low_res_schedule = None, None
    if _has_part(index, "low_res_scheduler"):
        low_res_scheduler, low_res_schedule = _schedule(
            model, index, "low_res_scheduler", where=where
        )
    return PipelineContents(
        denoiser=denoiser,
        text_encoders=texts,
        noise_schedule=schedule,
        scheduler=scheduler,
        low_res_noise_schedule=low_res_schedule,
        low_res_scheduler=low_res_scheduler,
        zeros_for_empty_prompt=is_xl and bool(index.get("force_zeros_for_empty_prompt", True)),
        max_noise_level=index.get("max_noise_level"),
        notices=_notices(index),
    )


def _schedule(
    model: str, index: Mapping[str, Any], name: str, *, where: str
) -> tuple[dict[str, Any], NoiseScheduleConfig]:
    """A scheduler's file, and the noise that it means; diffusers goes by the index's class."""
    scheduler = _read_json(model, f"{name}/scheduler_config.json", where=where)
    if isinstance(entry := index.get(name), list) and entry[-1] is not None:
        scheduler["_class_name"] = entry[-1]
    scheduler |= mended_by_pipeline(scheduler, str(index.get("_class_name")))
    path = f"{where}: {public_reference(model)}/{name}/scheduler_config.json"
    return scheduler, noise_schedule_of_scheduler(scheduler, where=path)


def _has_part(index: Mapping[str, Any], name: str) -> bool:
    entry = index.get(name)
    return entry is not None and entry != [None, None]


def _notices(index: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{name} ({index[name][-1]}) of the model's folder is not run: {why}"
        for name, why in LEFT_ALONE.items()
        if _has_part(index, name)
    )


def _text_encoders(
    index: Mapping[str, Any], denoiser: str, model: str, *, where: str
) -> tuple[TextPart, ...]:
    """Those that are there; XL's refiner has the second alone."""
    allowed = DENOISERS[denoiser].text_classes
    found = tuple(part for part in TEXT_PARTS if _has_part(index, part))
    for part in found or TEXT_PARTS[:1]:
        _check_part(index, part, [allowed[part]] if part in allowed else [], model, where=where)
        if not _has_part(index, tokenizer := tokenizer_folder(part)):
            raise WeightsError(
                f"{where}: {public_reference(model)}/model_index.json has a {part} and no "
                f"{tokenizer}: captions could not be turned into its tokens"
            )
    return found


def _check_part(
    index: Mapping[str, Any], name: str, allowed: Collection[str], model: str, *, where: str
) -> None:
    entry = index.get(name)
    found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if found not in allowed:
        raise WeightsError(
            f"{where}: {public_reference(model)} is a {index.get('_class_name', 'folder')} whose "
            f"{name} is {found or 'missing'}; supported: {', '.join(allowed) or 'none'}"
        )


def _read_json(model: str, name: str, *, where: str) -> dict[str, Any]:
    return read_object(resolve_weights(join_reference(model, name), where=where), where=where)
