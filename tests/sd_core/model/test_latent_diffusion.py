"""The whole model: its parts fit, its folder is diffusers' own, the real sizes are right."""

from pathlib import Path

import pytest
import torch

from sd_core.model.conditioning import Conditioning
from sd_core.model.denoiser import predict
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
    save_latent_diffusion,
)
from sd_core.model.text_encoder import encode_captions
from tests import model_cases

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 32,
}
TRANSFORMER = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "cross_attention_dim": 16,
    "caption_channels": 32,
    "in_channels": 4,
    "out_channels": 8,
}


def sections(tmp_path: Path, settings: dict[str, object] = UNET) -> LatentDiffusionConfig:
    return LatentDiffusionConfig.model_validate(
        {
            "autoencoder": {"model": str(model_cases.autoencoder_folder(tmp_path / "vae"))},
            "text_encoder": {"clip": {"name": str(model_cases.clip_folder(tmp_path / "clip"))}},
            "denoiser": {"settings": settings},
        }
    )


def prediction(model: LatentDiffusion) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    embeds = encode_captions(model.text_encoder, ["a red circle", ""]).prompt_embeds
    with torch.no_grad():
        conditioning = Conditioning(prompt_embeds=embeds)
        return predict(model.denoiser, latents, torch.tensor([0, 999]), conditioning)


@pytest.mark.parametrize("settings", [UNET, TRANSFORMER], ids=["unet", "transformer"])
def test_a_saved_folder_loads_to_the_same_model(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    model = load_latent_diffusion(sections(tmp_path, settings), device="cpu")
    save_latent_diffusion(model, tmp_path / "saved")
    config = LatentDiffusionConfig(model=str(tmp_path / "saved"))
    loaded = load_latent_diffusion(config, device="cpu")
    assert loaded.identity == model.identity
    assert loaded.noise_schedule.config == model.noise_schedule.config
    assert torch.equal(prediction(loaded), prediction(model))
    assert prediction(model).shape == (2, 4, 16, 16)


def test_diffusers_own_pipeline_opens_it(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model = load_latent_diffusion(sections(tmp_path), device="cpu")
    save_latent_diffusion(model, tmp_path / "saved")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a dog", num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 32, 32)
