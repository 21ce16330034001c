"""Which keys of a `model_index.json` are honoured: its pipeline, its parts, its options."""

from collections.abc import Mapping
from typing import Any, Final

from sd_core.model.settings_check import (
    Decisions,
    Limited,
    SettingsError,
    check_settings,
    constructor_defaults,
)

PIPELINES: Final = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipelineLegacy",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "LatentConsistencyModelPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "PixArtAlphaPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusion3Img2ImgPipeline",
)
"""Of diffusers, whose sampling is ours."""

LEFT_ALONE: Final[Mapping[str, str]] = {
    "safety_checker": "images are not judged by it; score and select them instead",
    "image_encoder": "it is of IP-Adapters, and none is loaded",
    "watermarker": "no watermark is put into the pixels",
}
"""Parts that may be in a folder, change no latent, and are not run."""

INDEX_DECISIONS: Final = Decisions(
    honoured=frozenset(
        {
            "vae",
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
            "tokenizer",
            "tokenizer_2",
            "tokenizer_3",
            "unet",
            "transformer",
            "scheduler",
            "low_res_scheduler",
            "force_zeros_for_empty_prompt",
            "requires_aesthetics_score",
            "max_noise_level",
        }
    ),
    harmless={
        **LEFT_ALONE,
        "feature_extractor": "it prepares images for the safety checker and the image encoder",
        "requires_safety_checker": "the safety checker is not run",
    },
    limited={
        "add_watermarker": Limited(
            allowed=(None, False), why="no watermark is put into the pixels"
        ),
    },
)
_BY_STABLE_DIFFUSION: Final = {"steps_offset": 1, "clip_sample": False}
_MENDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "StableDiffusionPipeline": _BY_STABLE_DIFFUSION,
    "StableDiffusionImg2ImgPipeline": _BY_STABLE_DIFFUSION,
    "StableDiffusionInpaintPipelineLegacy": _BY_STABLE_DIFFUSION,
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
    "LatentConsistencyModelImg2ImgPipeline": {},
}
_TEXTS: Final = ("text_encoder", "text_encoder_2")
_CLIP_TOKENIZERS: Final = ("CLIPTokenizer", "CLIPTokenizerFast")
_TOKENIZERS: Final = {
    "tokenizer": _CLIP_TOKENIZERS,
    "tokenizer_2": _CLIP_TOKENIZERS,
    "tokenizer_3": ("T5Tokenizer", "T5TokenizerFast"),
}


def mended_by_pipeline(scheduler: Mapping[str, Any], pipeline: str) -> dict[str, Any]:
    """What diffusers' own pipeline sets right in a scheduler that it is given.

    Old files of Stable Diffusion's pipelines say too little: latents are never clipped, and
    timesteps have an offset of 1. XL's pipelines take the file as it is.
    """
    import diffusers

    mended = _MENDED.get(pipeline, {})
    family = getattr(diffusers, str(scheduler.get("_class_name")), None)
    said = {**(constructor_defaults(family) if family else {}), **scheduler}
    return {name: value for name, value in mended.items() if name in said}


def check_index(index: Mapping[str, Any], *, where: str) -> None:
    """Hold a pipeline folder's index against what is honoured.

    Raises:
        SettingsError: it is of another pipeline, has parts or options that are not known, or a
            tokenizer of another class.
    """
    unknown = {
        name: value
        for name, value in index.items()
        if not (isinstance(value, list) and set(value) <= {None})
    }
    check_settings(unknown, INDEX_DECISIONS, where=where)
    if index.get("requires_aesthetics_score") and set(_TEXTS) & unknown.keys() != {_TEXTS[1]}:
        raise SettingsError(
            f"{where}: requires_aesthetics_score is True; allowed: False, but for XL's refiner, "
            "which has a text_encoder_2 alone: nothing else is told a score"
        )
    found = index.get("_class_name")
    if found is not None and found not in PIPELINES:
        raise SettingsError(
            f"{where}: _class_name is {found!r}; allowed: {', '.join(PIPELINES)}; another "
            "pipeline samples in another way"
        )
    for name, allowed in _TOKENIZERS.items():
        entry = index.get(name)
        if isinstance(entry, list) and entry[-1] is not None and entry[-1] not in allowed:
            raise SettingsError(
                f"{where}: {name} is a {entry[-1]}; allowed: {' or '.join(allowed)}"
            )
