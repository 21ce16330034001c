"""Tiny latent diffusion models with random weights, as configurations and as real folders."""

from pathlib import Path
from typing import Any

import torch

from sd_core.model.latent_diffusion import LatentDiffusionConfig
from tests import model_cases

UNET: dict[str, Any] = {
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
TRANSFORMER: dict[str, Any] = {
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


def diffusion_config(folder: Path, settings: dict[str, Any] = UNET) -> LatentDiffusionConfig:
    """Sections: a folder's autoencoder, an open_clip folder's text tower, a random denoiser."""
    return LatentDiffusionConfig.model_validate(
        {
            "autoencoder": {"model": str(model_cases.autoencoder_folder(folder / "vae"))},
            "text_encoder": {"clip": {"name": str(model_cases.clip_folder(folder / "clip"))}},
            "denoiser": {"settings": settings},
        }
    )


def clip_text_model(*, width: int = 32, is_projected: bool = False, seed: int = 0) -> Any:
    """A text model of 12 tokens for `character_tokenizer`."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=12,
        projection_dim=24,
        hidden_act="gelu" if is_projected else "quick_gelu",
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    torch.manual_seed(seed)
    name = "CLIPTextModelWithProjection" if is_projected else "CLIPTextModel"
    model: Any = getattr(transformers, name)(config)
    for parameter in model.parameters():  # transformers starts biases and norms at 0 and 1
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def character_tokenizer(*, pad_token_id: int = 513) -> Any:
    """Knows single characters, as `model_cases.clip_folder`'s."""
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(f"{character}</w>" for character in characters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12)
    tokenizer.pad_token = tokens[pad_token_id]
    return tokenizer


def autoencoder(*, latent_channels: int = 4) -> Any:
    """An AutoencoderKL that halves the sides once."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    )


def diffusers_folder(folder: Path, **unet_changes: Any) -> Path:
    """A StableDiffusionPipeline's folder, written by diffusers itself, with a PNDM scheduler."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(1)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_text_model(),
        tokenizer=character_tokenizer(),
        unet=UNet2DConditionModel.from_config({**UNET, **unet_changes}),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def diffusers_xl_folder(folder: Path) -> Path:
    """A StableDiffusionXLPipeline's folder, written by diffusers itself."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(1)
    settings = {
        **UNET,
        "cross_attention_dim": 32 + 48,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 6 * 8,
    }
    pipeline = StableDiffusionXLPipeline(
        vae=autoencoder(),
        text_encoder=clip_text_model(),
        text_encoder_2=clip_text_model(width=48, is_projected=True, seed=2),
        tokenizer=character_tokenizer(),
        tokenizer_2=character_tokenizer(pad_token_id=0),
        unet=UNet2DConditionModel.from_config(settings),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


def diffusers_refiner_folder(folder: Path) -> Path:
    """The folder of XL's refiner, written by diffusers itself: a second text encoder alone."""
    from diffusers import DDIMScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel

    torch.manual_seed(4)
    settings = {
        **UNET,
        "cross_attention_dim": 48,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24 + 5 * 8,
    }
    family: Any = StableDiffusionXLImg2ImgPipeline
    pipeline = family(
        vae=autoencoder(),
        text_encoder=None,
        text_encoder_2=clip_text_model(width=48, is_projected=True, seed=2),
        tokenizer=None,
        tokenizer_2=character_tokenizer(pad_token_id=0),
        unet=UNet2DConditionModel.from_config(settings),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def diffusers_upscaler_folder(folder: Path) -> Path:
    """A StableDiffusionUpscalePipeline's folder, written by diffusers itself, set up as x4's."""
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(1)
    vae = autoencoder()
    vae.register_to_config(scaling_factor=0.08333)
    betas = {"beta_schedule": "scaled_linear"}
    settings = {**UNET, "in_channels": 7, "num_class_embeds": 1000}
    pipeline = StableDiffusionUpscalePipeline(
        vae=vae,
        text_encoder=clip_text_model(),
        tokenizer=character_tokenizer(),
        unet=UNet2DConditionModel.from_config(settings),
        low_res_scheduler=DDPMScheduler(beta_start=0.0001, beta_end=0.02, **betas),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            **betas,
        ),
    )
    pipeline.save_pretrained(folder)
    return folder


SD3: dict[str, Any] = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 96,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 24 + 24,
    "pos_embed_max_size": 24,
    "dual_attention_layers": [0],
    "qk_norm": "rms_norm",
}


def t5_encoder(*, width: int = 96) -> Any:
    """A T5 encoder for `letter_tokenizer`."""
    import transformers

    config = transformers.T5Config(
        vocab_size=32,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(3)
    return transformers.T5EncoderModel(config).eval()


def letter_tokenizer() -> Any:
    """A T5 tokenizer that knows single letters."""
    from transformers import T5TokenizerFast

    letters = [("\N{LOWER ONE EIGHTH BLOCK}", -2.0), *((chr(97 + i), -3.0) for i in range(26))]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(vocab=[*special, *letters], extra_ids=0, model_max_length=512)


def diffusers_sd3_folder(folder: Path, *, has_t5: bool = True, **changes: Any) -> Path:
    """A StableDiffusion3Pipeline's folder, written by diffusers itself, set up as 3.5's."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    vae = autoencoder(latent_channels=16)
    vae.register_to_config(scaling_factor=1.5305, shift_factor=0.0609)
    torch.manual_seed(1)
    transformer: Any = SD3Transformer2DModel.from_config({**SD3, **changes})
    pipeline = StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=clip_text_model(is_projected=True),
        text_encoder_2=clip_text_model(width=48, is_projected=True, seed=2),
        text_encoder_3=t5_encoder() if has_t5 else None,
        tokenizer=character_tokenizer(),
        tokenizer_2=character_tokenizer(pad_token_id=0),
        tokenizer_3=letter_tokenizer() if has_t5 else None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipeline.save_pretrained(folder)
    return folder
