"""The denoiser: noisy latents, timesteps and text to a prediction, whatever its class."""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sd_core.model.conditioning import Conditioning
from sd_core.model.config import ModelConfig
from sd_core.model.denoiser_loading import (
    DENOISER_ARCHITECTURES,
    build_module,
    check_denoiser_folder,
    denoiser_class,
    denoiser_settings_of_file,
    load_denoiser_file,
    load_denoiser_module,
    read_settings,
)
from sd_core.model.denoisers import DENOISERS
from sd_core.model.memory import aligned, place_module
from sd_core.model.precision import Precision, model_dtype
from sd_core.model.single_file import is_single_file
from sd_core.model.weights import (
    WeightsNeed,
    loads_weights,
    public_reference,
    refuse_bare,
    resolve_weights,
    weights_identity,
)

_WHERE = "denoiser.model"


class DenoiserConfig(ModelConfig):
    """Which denoiser, and where its weights come from."""

    model: str | None = None
    """A reference to a diffusers folder of a UNet2DConditionModel, a PixArtTransformer2DModel or an
    SD3Transformer2DModel (`hub:org/name@revision/unet`, `/a/folder`), or to a single-file
    checkpoint (.safetensors); with `pretrained: false` a folder that holds a `config.json`, or the
    name of an architecture (`sd-v1`, `sd-v2`, `sd-xl`, `sd-3-medium`, `sd-3.5-medium`,
    `sd-3.5-large`, `tiny`)."""
    layout: str | None = None
    """Of a single file: a reference to a folder with the `config.json` that tells its sizes, where
    they are not Stable Diffusion's."""
    settings: dict[str, Any] | None = None
    """Instead of `model`: a diffusers configuration with its `_class_name`, for random weights."""
    pretrained: bool = True
    """False: random weights of the named architecture. With `settings` they always are."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the folder."""
    precision: Precision = "auto"
    """Of the weights: train with `fp32`, sample with `auto`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of random weights."""

    @model_validator(mode="after")
    def _check(self) -> "DenoiserConfig":
        if (self.model is None) == (self.settings is None):
            raise ValueError("set one of model (a folder or architecture) and settings")
        refuse_bare(self.model, DENOISER_ARCHITECTURES, pretrained=self.pretrained)
        return self

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn from the seed."""
        return self.settings is not None or not self.pretrained

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        if self.model is None or self.model in DENOISER_ARCHITECTURES:
            return []
        return [WeightsNeed(f"{where}.model", self.model, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change a prediction, as plain JSON without secrets."""
        options: dict[str, Any] = {"precision": self.precision}
        if self.is_random:
            options |= {"pretrained": False, "seed": self.seed}
        if self.model is None:
            return options | {"settings": self.settings}
        return options | weights_identity(self.model, self.sha256)

    def describe(self) -> str:
        """One line for people."""
        named = public_reference(self.model) if self.model else str(_class_name(self.settings))
        return f"{named}, RANDOM weights of seed {self.seed}" if self.is_random else named


@loads_weights
def load_denoiser(config: DenoiserConfig, *, device: str | torch.device) -> nn.Module:
    """Load or build the denoiser, in eval mode, its parameters wanting gradients.

    Raises:
        WeightsError: the weights cannot be had or do not fit.
    """
    if config.is_random:
        module = build_module(_random_settings(config), seed=config.seed, where=_WHERE)
    else:
        module = _load(config)
    dtype = model_dtype(config.precision, device)
    return place_module(module.eval(), device=device, dtype=dtype)


def denoiser_settings(config: DenoiserConfig) -> dict[str, Any]:
    """What the denoiser is built of, held against what is honoured; its weights are not read.

    Raises:
        WeightsError: its configuration cannot be had, or says what is not honoured.
    """
    where = _WHERE
    if config.is_random:
        settings = _random_settings(config)
    elif is_single_file(str(config.model), where=where):
        path = resolve_weights(str(config.model), where=where)
        layout = resolve_weights(config.layout, where=where) if config.layout else None
        settings = denoiser_settings_of_file(path, layout_folder=layout, where=where)
    else:
        folder = resolve_weights(str(config.model), where=where)
        settings, where = read_settings(folder, where=where), f"{where}: {folder}/config.json"
    denoiser_class(settings, where=where)
    return settings


def check_denoiser_weights(config: DenoiserConfig) -> None:
    """Refuse a folder whose weights are not there or do not fit, by their headers alone.

    Raises:
        WeightsError: as `load_denoiser`.
    """
    if not config.is_random and not is_single_file(str(config.model), where=_WHERE):
        check_denoiser_folder(resolve_weights(str(config.model), where=_WHERE), where=_WHERE)


def _load(config: DenoiserConfig) -> nn.Module:
    is_file = is_single_file(str(config.model), where=_WHERE)
    path = resolve_weights(str(config.model), sha256=config.sha256, where=_WHERE)
    if not is_file:
        return load_denoiser_module(path, where=_WHERE)
    layout = resolve_weights(config.layout, where=_WHERE) if config.layout else None
    return load_denoiser_file(path, layout_folder=layout, where=_WHERE)


def predict(
    denoiser: nn.Module, latents: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """What the denoiser says of noisy latents.

    Args:
        denoiser: Of `load_denoiser`, also wrapped for distributed training or compiled.
        latents: (B, C, h, w) scaled noisy latents.
        timesteps: (B,) int64, or float of a flow.
        conditioning: B rows on the latents' device; its image channels are set after the latents'.

    Returns:
        (B, C, h, w) float32. The second half of the channels of a transformer that also predicts
        a variance is left out.

    Raises:
        ValueError: the conditioning lacks what this denoiser goes by: XL's pooled embeddings or
            time ids, the image channels of inpainting or upscaling, or the scale of guidance.
    """
    settings: Any = unwrap_module(denoiser).config
    inputs = _inputs(latents, conditioning, channels=settings["in_channels"])
    dtype = next(denoiser.parameters()).dtype
    options: dict[str, Any] = {
        "encoder_hidden_states": aligned(conditioning.prompt_embeds.to(dtype))
    }
    options |= DENOISERS[class_name_of(denoiser)].conditions(settings, conditioning, dtype)
    if conditioning.class_labels is not None:
        options["class_labels"] = conditioning.class_labels
    if guidance_width(denoiser) is not None:
        options["timestep_cond"] = _guidance_condition(conditioning, dtype)
    output: Any = denoiser(
        aligned(inputs.to(dtype)), timestep=timesteps, return_dict=False, **options
    )
    sample: Tensor = output[0]
    return sample[:, : latents.shape[1]].float()


def guidance_width(denoiser: nn.Module) -> int | None:
    """Of a denoiser that takes the scale of guidance as an input: its embedding's width."""
    settings: Any = unwrap_module(denoiser).config
    found = settings.get("time_cond_proj_dim")
    return None if found is None else int(found)


def unwrap_module(module: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and torch.compile, in whatever order."""
    while True:
        inner = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def class_name_of(denoiser: nn.Module) -> str:
    """The diffusers class of a denoiser, wrapped or not."""
    return type(unwrap_module(denoiser)).__name__


def _inputs(latents: Tensor, conditioning: Conditioning, *, channels: int) -> Tensor:
    """The latents with the image channels behind them."""
    beside = conditioning.image_channels
    inputs = latents if beside is None else torch.cat([latents, beside.to(latents.dtype)], dim=1)
    if inputs.shape[1] != channels:
        raise ValueError(
            f"this denoiser takes {channels} channels; there are {latents.shape[1]} of latents and "
            f"{0 if beside is None else beside.shape[1]} of the conditioning's images "
            "(image_channels; see sampling/image_conditions)"
        )
    return inputs


def _guidance_condition(conditioning: Conditioning, dtype: torch.dtype) -> Tensor:
    if conditioning.guidance_embedding is None:
        raise ValueError(
            "this denoiser takes the scale of guidance as an input (time_cond_proj_dim): the "
            "conditioning needs guidance_embedding (see embed_guidance_scale)"
        )
    return conditioning.guidance_embedding.to(dtype)


def _random_settings(config: DenoiserConfig) -> dict[str, Any]:
    if config.settings is not None:
        return config.settings
    name = str(config.model)
    if name in DENOISER_ARCHITECTURES:
        return DENOISER_ARCHITECTURES[name]
    return read_settings(resolve_weights(name, where=_WHERE), where=_WHERE)


def _class_name(settings: dict[str, Any] | None) -> Any:
    return (settings or {}).get("_class_name")
