"""Which latent diffusion model: a whole one by its folder or file, or its parts one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.config import ModelConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion_folder import PipelineContents, pipeline_contents
from sd_core.model.noise_schedule import NoiseScheduleConfig
from sd_core.model.precision import Precision
from sd_core.model.single_file import SingleFileLayout, detect_layout, is_single_file
from sd_core.model.single_file_settings import (
    agreed_schedule,
    check_encoder_layer,
    check_file_tensors,
    schedule_of_file,
)
from sd_core.model.text_encoder import MAX_SEQUENCE_LENGTH, TextEncoderConfig
from sd_core.model.text_encoder_loading import TEXT_PARTS, TextPart
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    join_reference,
    public_reference,
    resolve_weights,
    weights_identity,
)

_WHERE = "model"
_PARTS = ("autoencoder", *TEXT_PARTS, "denoiser")
_THIRD = "text_encoder_3"


class LatentDiffusionConfig(ModelConfig):
    """Which model: a whole one by `model`, or its parts by the other sections."""

    model: str | None = None
    """A reference to a diffusers pipeline folder (`hub:org/name@revision`, `/a/folder`), or to a
    single-file checkpoint of Stable Diffusion v1, v2 or XL (`/a/model.safetensors`)."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of `model`."""
    layout: str | None = None
    """Of a single file: a reference to a diffusers folder that tells its sizes, tokenizers and
    noise schedule, where they are not Stable Diffusion's; its weights are not read."""
    precision: Precision = "auto"
    """Of all parts of `model`; sections have their own. Train with `fp32`."""
    autoencoder: AutoencoderConfig | None = None
    """The autoencoder, where the parts are named one by one."""
    text_encoder: TextEncoderConfig | None = None
    """The text encoder, where the parts are named one by one."""
    text_encoder_2: TextEncoderConfig | None = None
    """XL's and Stable Diffusion 3's second one."""
    text_encoder_3: TextEncoderConfig | None = None
    """Stable Diffusion 3's T5; it may be left out."""
    max_sequence_length: int | None = Field(default=None, ge=1, le=512)
    """Of Stable Diffusion 3: tokens that T5 pads a caption to or cuts it at, all of which are
    attended to, as are zeros in place of a T5 that is left out; null: 256. Unit: tokens."""
    denoiser: DenoiserConfig | None = None
    """The denoiser, where the parts are named one by one."""
    noise_schedule: NoiseScheduleConfig | None = None
    """With `model`: instead of its own; with sections: Stable Diffusion's where left out."""

    @model_validator(mode="after")
    def _check(self) -> "LatentDiffusionConfig":
        parts = {
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
            "denoiser": self.denoiser,
        }
        missing = [name for name, section in parts.items() if section is None]
        if self.model is None and missing:
            raise ValueError(f"set model, or also the section(s) {', '.join(missing)}")
        named = [name for name in _PARTS if getattr(self, name) is not None]
        if self.model is not None and named:
            raise ValueError(
                f"model names a whole model; leave out {', '.join(named)}, or leave out model and "
                "write each section"
            )
        if self.model is None and (self.sha256 or self.layout):
            raise ValueError("sha256 and layout are model's; sections have their own")
        return self

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        key = f"{where}.model"
        if self.model is not None and is_single_file(self.model, where=key):
            return [WeightsNeed(key, self.model, self.sha256)]
        if self.model is not None:
            return [WeightsNeed(key, join_reference(self.model, "model_index.json"))]
        needs: list[WeightsNeed] = []
        for name in _PARTS:
            section = getattr(self, name)
            needs += [] if section is None else section.weight_needs(f"{where}.{name}")
        return needs

    def identity(self) -> dict[str, Any]:
        """The options that change what the model says, as plain JSON without secrets."""
        schedule = self.noise_schedule
        options: dict[str, Any] = {
            "noise_schedule": None if schedule is None else schedule.model_dump(mode="json")
        }
        if self.max_sequence_length is not None:
            options["max_sequence_length"] = self.max_sequence_length
        if self.model is not None:
            named = {"precision": self.precision} | weights_identity(self.model, self.sha256)
            return options | named
        for name in _PARTS:
            section = getattr(self, name)
            if section is not None or name != _THIRD:  # runs before it have no word of it
                options[name] = None if section is None else section.identity()
        return options

    def describe(self) -> str:
        """One line for people."""
        if self.model is not None:
            return public_reference(self.model)
        sections = (getattr(self, name) for name in _PARTS)
        return "; ".join(section.describe() for section in sections if section is not None)


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionSections:
    """One section for each part, whichever way the model was named."""

    autoencoder: AutoencoderConfig
    text_encoders: Mapping[str, TextEncoderConfig]
    """By their part of the folder, in order."""
    denoiser: DenoiserConfig
    noise_schedule: NoiseScheduleConfig
    max_sequence_length: int = MAX_SEQUENCE_LENGTH
    scheduler: Mapping[str, Any] | None = None
    """The folder's own scheduler; None where no folder, or the configuration, tells the noise."""
    low_res_noise_schedule: NoiseScheduleConfig | None = None
    """Of an upscaler."""
    low_res_scheduler: Mapping[str, Any] | None = None
    zeros_for_empty_prompt: bool = False
    """Of XL: whether the unconditional text is zeros."""
    max_noise_level: int | None = None
    notices: tuple[str, ...] = ()
    """What of the folder is left alone, for people."""

    @property
    def is_refiner(self) -> bool:
        """Whether it is XL's refiner, which reads captions with the second encoder alone."""
        return list(self.text_encoders) == [TEXT_PARTS[1]]

    @property
    def text_encoder(self) -> TextEncoderConfig:
        """The first one, whose tokenizer's ids a cache holds."""
        return next(iter(self.text_encoders.values()))


def sections_of(config: LatentDiffusionConfig) -> LatentDiffusionSections:
    """The sections that `config` comes to, reading the model's index where it names one.

    Raises:
        WeightsError: `model` cannot be had, or is no latent diffusion model.
    """
    if config.model is not None:
        if is_single_file(config.model, where=_WHERE):
            return _sections_of_file(config, config.model)
        return _sections_of_folder(config, config.model)
    if config.autoencoder is None or config.text_encoder is None or config.denoiser is None:
        raise WeightsError("model: neither a whole model nor all of its sections are named")
    third = config.text_encoder_3
    own = MAX_SEQUENCE_LENGTH if third is None else third.max_sequence_length
    length = config.max_sequence_length or own
    texts: dict[str, TextEncoderConfig | None] = {
        name: getattr(config, name) for name in TEXT_PARTS
    }
    if third is not None:
        texts[_THIRD] = third.model_copy(update={"max_sequence_length": length})
    return LatentDiffusionSections(
        autoencoder=config.autoencoder,
        text_encoders={name: text for name, text in texts.items() if text is not None},
        max_sequence_length=length,
        denoiser=config.denoiser,
        noise_schedule=config.noise_schedule or NoiseScheduleConfig(),
    )


def first_text_encoder(config: LatentDiffusionConfig) -> TextEncoderConfig:
    """Where the (first) text encoder and its tokenizer come from; nothing is read or hashed."""
    if config.model is None and config.text_encoder is not None:
        return config.text_encoder
    return TextEncoderConfig(model=config.model, layout=config.layout)


def _sections_of_folder(config: LatentDiffusionConfig, model: str) -> LatentDiffusionSections:
    if config.sha256 is not None:
        resolve_weights(model, sha256=config.sha256, where=_WHERE)
    contents = pipeline_contents(model, where=_WHERE)
    precision = config.precision
    return LatentDiffusionSections(
        autoencoder=AutoencoderConfig(model=join_reference(model, "vae"), precision=precision),
        text_encoders=_text_encoders(config, model, contents.text_encoders),
        max_sequence_length=config.max_sequence_length or MAX_SEQUENCE_LENGTH,
        denoiser=DenoiserConfig(
            model=join_reference(model, contents.denoiser), precision=precision
        ),
        noise_schedule=config.noise_schedule or contents.noise_schedule,
        scheduler=None if config.noise_schedule else contents.scheduler,
        low_res_noise_schedule=contents.low_res_noise_schedule,
        low_res_scheduler=contents.low_res_scheduler,
        zeros_for_empty_prompt=contents.zeros_for_empty_prompt,
        max_noise_level=contents.max_noise_level,
        notices=contents.notices,
    )


def _sections_of_file(config: LatentDiffusionConfig, model: str) -> LatentDiffusionSections:
    path = resolve_weights(model, sha256=config.sha256, where=_WHERE)
    kind = detect_layout(path, where=_WHERE)
    check_file_tensors(path, where=_WHERE)
    if config.layout is None:
        check_encoder_layer(path, kind, where=_WHERE)
    contents = None if config.layout is None else pipeline_contents(config.layout, where="layout")
    texts = TEXT_PARTS[:2] if kind == "sd-xl" else TEXT_PARTS[:1]

    def beside(name: str) -> str | None:
        return None if config.layout is None else join_reference(config.layout, name)

    return LatentDiffusionSections(
        autoencoder=AutoencoderConfig(
            model=model, layout=beside("vae"), precision=config.precision
        ),
        text_encoders=_text_encoders(config, model, texts),
        denoiser=DenoiserConfig(model=model, layout=beside("unet"), precision=config.precision),
        noise_schedule=config.noise_schedule or _known_schedule(path, kind, contents),
        scheduler=None if config.noise_schedule or contents is None else contents.scheduler,
        zeros_for_empty_prompt=_zeros_of_file(kind, contents),
        notices=() if contents is None else contents.notices,
    )


def _text_encoders(
    config: LatentDiffusionConfig, model: str, parts: Sequence[TextPart]
) -> dict[str, TextEncoderConfig]:
    """Of XL and Stable Diffusion 3, each CLIP's state is the penultimate."""
    is_plain = list(parts) == [TEXT_PARTS[0]]
    return {
        part: TextEncoderConfig(
            model=model,
            part=part,
            layout=config.layout,
            precision=config.precision,
            hidden_states="last" if is_plain or part == _THIRD else "penultimate",
            max_sequence_length=config.max_sequence_length or MAX_SEQUENCE_LENGTH,
        )
        for part in parts
    }


def _zeros_of_file(kind: SingleFileLayout, contents: PipelineContents | None) -> bool:
    """XL's own index says so, and diffusers takes it for a file too."""
    return kind == "sd-xl" if contents is None else contents.zeros_for_empty_prompt


def _known_schedule(
    path: Path, kind: SingleFileLayout, contents: PipelineContents | None
) -> NoiseScheduleConfig:
    said = schedule_of_file(path, where=_WHERE)
    if contents is not None:
        return agreed_schedule(contents.noise_schedule, said, path, where=_WHERE)
    if kind == "sd-v2" and said.prediction_type is None:
        raise WeightsError(
            f"{_WHERE}: {path.name} is of Stable Diffusion v2, whose file does not tell whether it "
            "predicts noise (2-base) or velocity (2 at 768 px); set "
            "noise_schedule.prediction_type to epsilon or v_prediction"
        )
    return NoiseScheduleConfig(
        prediction_type=said.prediction_type or "epsilon",
        rescale_betas_zero_snr=said.is_zero_snr,
    )
