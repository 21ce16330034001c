"""Starting from an image is diffusers' own to the pixel; what a mask keeps stays."""

import copy
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_conditioning import encode_conditioning
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SamplerName, build_sampler, samplers_of
from sd_core.sampling.source import SourceLatents, compose_inpainted, mask_of_latents, num_steps_of
from sd_core.sampling.text_to_image import decode_images, generate_latents
from tests.sd_core.sampling.cases import CAPTIONS, LATENT_SHAPE, random_model

SEEDS = [21, 22, 23]
STEPS, STRENGTH, SCALE = 8, 0.6, 4.0
NEGATIVES = ["blurry", "", "dark"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    return random_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source() -> Tensor:
    return torch.randn((3, *LATENT_SHAPE), generator=torch.Generator().manual_seed(5))


def sample(
    model: LatentDiffusion, sampler: SamplerName, source: SourceLatents | None, **options: Any
) -> Tensor:
    generators = row_generators(SEEDS)
    arguments: dict[str, Any] = {"guidance_scale": SCALE, **options}
    return generate_latents(
        model,
        conditioning=encode_conditioning(model, CAPTIONS),
        unconditional=encode_conditioning(model, NEGATIVES),
        noise=initial_noise(generators, shape=LATENT_SHAPE),
        sampler=sampler,
        num_inference_steps=STEPS,
        generators=generators,
        source=source,
        **arguments,
    )


def theirs(model: LatentDiffusion, family: Any, sampler: SamplerName, **inputs: Any) -> np.ndarray:
    tokenizer = copy.copy(model.text_encoder.tokenizer)
    tokenizer.model_max_length = model.text_encoder.token_length  # the pipelines ask for it
    pipeline = family(
        vae=model.autoencoder.module,
        text_encoder=model.text_encoder.module,
        tokenizer=tokenizer,
        unet=model.denoiser,
        scheduler=build_sampler(sampler, model.noise_schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        CAPTIONS,
        negative_prompt=NEGATIVES,
        strength=STRENGTH,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generator=row_generators(SEEDS),
        output_type="np",
        **inputs,
    ).images
    return np.rint(images * 255).astype(np.int16)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_image_to_image_with_negative_prompts_equals_diffusers(
    model: LatentDiffusion, source: Tensor, sampler: SamplerName
) -> None:
    ours = sample(model, sampler, SourceLatents(latents=source, strength=STRENGTH))
    expected = theirs(model, diffusers.StableDiffusionImg2ImgPipeline, sampler, image=source)
    found = decode_images(model, ours).numpy().astype(np.int16)
    assert np.abs(found - expected).max() <= 1


def test_strength_zero_is_the_source_and_full_strength_takes_every_step(
    model: LatentDiffusion, source: Tensor
) -> None:
    for sampler in samplers_of(model.noise_schedule):
        kept = sample(model, sampler, SourceLatents(latents=source, strength=0.0))
        assert torch.equal(kept, source), sampler
        assert torch.isfinite(
            sample(model, sampler, SourceLatents(latents=source, strength=1.0))
        ).all()
    assert num_steps_of(0.6, num_inference_steps=8) == 4
    assert num_steps_of(1.0, num_inference_steps=8) == 8


def test_what_the_mask_keeps_ends_as_the_source(model: LatentDiffusion, source: Tensor) -> None:
    pixels = torch.zeros(3, 1, 32, 32)
    pixels[:, :, 9:20, 4:12] = 1
    mask = mask_of_latents(pixels, downsampling=2)
    assert mask.shape == (3, 1, 16, 16)
    assert mask[0, 0, 4, 3] == 1  # a latent of which one row of pixels is made anew
    for sampler in ("ddim", "euler_a", "dpmpp_2m", "pndm"):
        made = sample(model, sampler, SourceLatents(latents=source, strength=0.8, mask=mask))
        keeps = (mask == 0).expand_as(source)
        assert torch.equal(made[keeps], source[keeps]), sampler
        assert (made - source)[~keeps].abs().mean() > 0.01, sampler
    images = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    chosen = torch.tensor([[True, False], [False, True]]).reshape(1, 2, 2, 1)
    composed = compose_inpainted(images, images + 9, chosen)
    assert composed[0, :, :, 0].tolist() == [[0, 9], [9, 0]]


def test_each_row_has_its_own_guidance_scale(model: LatentDiffusion) -> None:
    together = sample(model, "ddim", None, guidance_scale=torch.tensor([2.0, 5.0, 9.0]))
    for row, scale in enumerate((2.0, 5.0, 9.0)):
        alone = sample(model, "ddim", None, guidance_scale=scale)
        assert torch.equal(together[row], alone[row])
    with pytest.raises(ValueError, match="sample them apart"):
        sample(model, "ddim", None, guidance_scale=torch.tensor([1.0, 5.0, 9.0]))


def test_a_strength_outside_its_range_is_refused(source: Tensor) -> None:
    with pytest.raises(ValueError, match="allowed are 0 to 1"):
        SourceLatents(latents=source, strength=1.5)
