"""LoRA files: low-rank changes of a model's weights, added to them when it is loaded.

Source: Hu et al. 2021, arXiv:2106.09685; read and fused by diffusers and peft, so that their own
format and that of kohya's scripts are both understood.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from pydantic import Field

from sd_core.model.config import ModelConfig
from sd_core.model.denoiser import unwrap_module
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_encoder import rehashed
from sd_core.model.weights import (
    WeightsError,
    WeightsNeed,
    resolve_weights,
    weights_identity,
)

_ADAPTER = "lora_{}"


class LoraConfig(ModelConfig):
    """One LoRA file and how much of it counts."""

    model: str = Field(min_length=1)
    """A reference to a .safetensors file (`/a/file.safetensors`, `hub:org/name@revision/file`)."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    """Expected digest of the file."""
    scale: float = Field(default=1.0, ge=-10, le=10)

    def weight_needs(self, where: str) -> list[WeightsNeed]:
        """What `check_weights` must find; `where` is this section's key."""
        return [WeightsNeed(f"{where}.model", self.model, self.sha256)]

    def identity(self) -> dict[str, Any]:
        """The options that change the weights, as plain JSON without secrets."""
        return {"scale": self.scale, **weights_identity(self.model, self.sha256)}


def fuse_loras(
    model: LatentDiffusion, loras: Sequence[LoraConfig], *, where: str
) -> LatentDiffusion:
    """Add the files' changes to the denoiser's and the text encoders' weights, in place.

    Returns:
        The model; the hashes of text encoders are those of what they are now.

    Raises:
        WeightsError: a file cannot be had, is not one of safetensors, or fits no layer.
    """
    if not loras:
        return model
    pipeline = _pipeline(model)
    for number, lora in enumerate(loras):
        key = f"{where}.{number}.model"
        path = resolve_weights(lora.model, sha256=lora.sha256, where=key)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{key}: {path.name} is no .safetensors file; others may run code")
        adapter = _ADAPTER.format(number)
        try:
            pipeline.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=adapter
            )
            pipeline.set_adapters(adapter)
            pipeline.fuse_lora(lora_scale=lora.scale, adapter_names=[adapter], safe_fusing=True)
            pipeline.unload_lora_weights()
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise WeightsError(
                f"{key}: {path.name} is no LoRA of this model: "
                f"{str(error).strip().splitlines()[0][:200]}"
            ) from error
    second = model.text_encoder_2
    return replace(
        model,
        text_encoder=rehashed(model.text_encoder),
        text_encoder_2=None if second is None else rehashed(second),
    )


def _pipeline(model: LatentDiffusion) -> Any:
    """diffusers' pipeline on the model's own modules: what its LoRA loader works on."""
    scheduler: Any = DDIMScheduler  # one is needed, and nothing is sampled with it
    parts: dict[str, Any] = {
        "vae": model.autoencoder.module,
        "text_encoder": model.text_encoder.module,
        "tokenizer": model.text_encoder.tokenizer,
        "unet": unwrap_module(model.denoiser),
        "scheduler": scheduler(steps_offset=1, clip_sample=False),
    }
    second = model.text_encoder_2
    family: Any = StableDiffusionPipeline if second is None else StableDiffusionXLPipeline
    if second is not None:
        parts |= {"text_encoder_2": second.module, "tokenizer_2": second.tokenizer}
        return family(**parts, add_watermarker=False)
    return family(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
