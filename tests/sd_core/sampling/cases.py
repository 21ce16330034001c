"""Small latent diffusion models with random weights."""

from pathlib import Path
from typing import Any

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from tests import model_cases

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
}
CAPTIONS = ["a red circle", "", "two green stars"]
LATENT_SHAPE = (4, 16, 16)


def random_model(folder: Path, **noise_schedule: Any) -> LatentDiffusion:
    """Latents of 16x16 to pictures of 32x32; a scaling factor of 0.37 and a text of width 32."""
    autoencoder = model_cases.autoencoder_folder(folder / "vae", scaling_factor=0.37)
    sections = {
        "autoencoder": {"model": str(autoencoder)},
        "text_encoder": {"clip": {"name": str(model_cases.clip_folder(folder / "clip"))}},
        "denoiser": {"settings": UNET},
        "noise_schedule": noise_schedule,
    }
    return load_latent_diffusion(LatentDiffusionConfig.model_validate(sections), device="cpu")
