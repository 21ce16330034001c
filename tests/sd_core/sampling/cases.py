"""Small latent diffusion models with random weights."""

from pathlib import Path
from typing import Any

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.task import Task
from tests import diffusion_cases, model_cases

UNET = {**diffusion_cases.UNET, "block_out_channels": [16, 32], "attention_head_dim": 4}
CAPTIONS = ["a red circle", "", "two green stars"]
LATENT_SHAPE = (4, 16, 16)


def random_model(
    folder: Path,
    *,
    settings: dict[str, Any] = UNET,
    task: Task = "text_to_image",
    **noise_schedule: Any,
) -> LatentDiffusion:
    """Latents of 16x16 to pictures of 32x32; a scaling factor of 0.37 and a text of width 32."""
    autoencoder = model_cases.autoencoder_folder(folder / "vae", scaling_factor=0.37)
    sections = {
        "autoencoder": {"model": str(autoencoder)},
        "text_encoder": {"clip": {"name": str(model_cases.clip_folder(folder / "clip"))}},
        "denoiser": {"settings": settings},
        "noise_schedule": noise_schedule,
    }
    config = LatentDiffusionConfig.model_validate(sections)
    return load_latent_diffusion(config, device="cpu", tasks=(task,))
