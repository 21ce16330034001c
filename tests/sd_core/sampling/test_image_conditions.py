"""Denoisers of inpainting and upscaling give what diffusers' pipelines give, to the pixel."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.text_conditioning import encode_conditioning
from sd_core.model.weights import WeightsError
from sd_core.sampling.image_conditions import (
    condition_on_low_resolution,
    condition_on_masked_images,
    encode_masked_images,
)
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SamplerName, build_sampler
from sd_core.sampling.text_to_image import decode_images, generate_images, generate_latents
from tests import diffusion_cases
from tests.sd_core.sampling.cases import CAPTIONS, LATENT_SHAPE, UNET, random_model

SEEDS = [31, 32, 33]
NEGATIVES = ["blurry", "", "dark"]
STEPS, SCALE = 6, 4.0
LOW_SHAPE = (3, *LATENT_SHAPE[1:])


@pytest.fixture(scope="module")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> LatentDiffusion:
    settings = {**UNET, "in_channels": 9}
    return random_model(tmp_path_factory.mktemp("model"), settings=settings, task="inpainting")


@pytest.fixture(scope="module")
def upscaler_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusion_cases.diffusers_upscaler_folder(tmp_path_factory.mktemp("upscaler") / "its")


@pytest.fixture(scope="module")
def upscaler(upscaler_folder: Path) -> LatentDiffusion:
    config = LatentDiffusionConfig(model=str(upscaler_folder))
    return load_latent_diffusion(config, device="cpu", tasks=("upscaling",))


def pictures(*shape: int, seed: int = 3) -> Tensor:
    """Values in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def mask_of_pixels() -> Tensor:
    mask = torch.zeros(3, 1, 32, 32)
    mask[:, :, 8:24, 6:16] = 1
    mask[1] = 1
    return mask


def text_of(model: LatentDiffusion) -> list[Conditioning]:
    return [encode_conditioning(model, texts) for texts in (CAPTIONS, NEGATIVES)]


def sample(
    model: LatentDiffusion,
    conditionings: list[Conditioning],
    sampler: SamplerName,
    generators: list[torch.Generator] | None = None,
) -> Tensor:
    generators = generators or row_generators(SEEDS)
    return generate_latents(
        model,
        conditioning=conditionings[0],
        unconditional=conditionings[1],
        noise=initial_noise(generators, shape=LATENT_SHAPE),
        sampler=sampler,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generators=generators,
    )


def inpainting_conditions(model: LatentDiffusion) -> tuple[list[Conditioning], Tensor, Tensor]:
    mask = mask_of_pixels()
    masked = encode_masked_images(model, pictures(3, 3, 32, 32) * 2 - 1, mask)
    small = torch.nn.functional.max_pool2d(mask, 2)
    conditions = [
        condition_on_masked_images(text, mask=small, masked_latents=masked)
        for text in text_of(model)
    ]
    return conditions, mask, masked


def upscaling_conditions(
    model: LatentDiffusion, low: Tensor, *, noise_level: int = 20
) -> tuple[list[Conditioning], list[torch.Generator]]:
    """And the rows' generators, which have drawn the images' noise."""
    generators = row_generators(SEEDS)
    noise = initial_noise(generators, shape=LOW_SHAPE)
    conditions = [
        condition_on_low_resolution(
            model, text, images=low * 2 - 1, noise=noise, noise_level=noise_level
        )
        for text in text_of(model)
    ]
    return conditions, generators


def run(pipeline: Any, sampler: SamplerName, model: LatentDiffusion, **inputs: Any) -> Any:
    pipeline.scheduler = build_sampler(sampler, model.noise_schedule)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        CAPTIONS,
        negative_prompt=NEGATIVES,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        generator=row_generators(SEEDS),
        output_type="np",
        **inputs,
    ).images
    return np.rint(images * 255).astype(np.int16)


def furthest(ours: Tensor, theirs: npt.NDArray[np.int16]) -> int:
    found = ours.numpy().astype(np.int16)
    assert found.shape == theirs.shape
    assert found.std() > 5, "an empty picture compares nothing"
    return int(np.abs(found - theirs).max())


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_a_denoiser_of_nine_channels_inpaints_as_diffusers_does(
    inpainter: LatentDiffusion, tmp_path: Path, sampler: SamplerName
) -> None:
    save_latent_diffusion(inpainter, tmp_path / "saved")
    family: Any = diffusers.StableDiffusionInpaintPipeline
    pipeline = family.from_pretrained(tmp_path / "saved", safety_checker=None)
    conditions, mask, masked = inpainting_conditions(inpainter)
    ours = decode_images(inpainter, sample(inpainter, conditions, sampler))
    theirs = run(
        pipeline,
        sampler,
        inpainter,
        image=pictures(3, 3, 32, 32),
        mask_image=mask,
        masked_image_latents=masked,  # diffusers would draw from the posterior
        strength=1.0,
        height=32,
        width=32,
    )
    assert furthest(ours, theirs) <= 1


def test_the_masked_part_of_an_image_is_not_seen(inpainter: LatentDiffusion) -> None:
    images, mask = pictures(3, 3, 32, 32) * 2 - 1, mask_of_pixels()
    other = torch.where(mask.bool(), -images, images)
    seen = encode_masked_images(inpainter, images, mask)
    assert torch.equal(seen, encode_masked_images(inpainter, other, mask.bool()))
    assert not torch.equal(seen, encode_masked_images(inpainter, images, 0 * mask))


@pytest.mark.parametrize(("sampler", "noise_level"), [("ddim", 20), ("euler_a", 100)])
def test_a_folder_of_diffusers_upscales_as_diffusers_does(
    upscaler: LatentDiffusion, upscaler_folder: Path, sampler: SamplerName, noise_level: int
) -> None:
    family: Any = diffusers.StableDiffusionUpscalePipeline
    pipeline = family.from_pretrained(upscaler_folder)
    low = pictures(3, *LOW_SHAPE)
    conditions, generators = upscaling_conditions(upscaler, low, noise_level=noise_level)
    ours = decode_images(upscaler, sample(upscaler, conditions, sampler, generators))
    theirs = run(pipeline, sampler, upscaler, image=low, noise_level=noise_level)
    assert furthest(ours, theirs) <= 1


def test_a_saved_upscaler_is_the_same_one(upscaler: LatentDiffusion, tmp_path: Path) -> None:
    save_latent_diffusion(upscaler, tmp_path / "ours")
    family: Any = diffusers.StableDiffusionUpscalePipeline
    family.from_pretrained(tmp_path / "ours")
    config = LatentDiffusionConfig(model=str(tmp_path / "ours"))
    again = load_latent_diffusion(config, device="cpu", tasks=("upscaling",))
    assert again.identity == upscaler.identity
    assert again.low_res_noise_schedule is not None
    assert upscaler.low_res_noise_schedule is not None
    assert again.low_res_noise_schedule.config == upscaler.low_res_noise_schedule.config
    assert again.noise_schedule.config == upscaler.noise_schedule.config


def test_a_row_with_its_image_does_not_depend_on_the_rows_beside_it(
    upscaler: LatentDiffusion,
) -> None:
    conditions, _ = upscaling_conditions(upscaler, pictures(3, *LOW_SHAPE))

    def images(*rows: int) -> Tensor:
        picks = torch.tensor(rows)
        generators = row_generators([SEEDS[row] for row in rows])
        return generate_images(
            upscaler,
            conditioning=conditions[0].rows(picks),
            unconditional=conditions[1].rows(picks),
            noise=initial_noise(generators, shape=LATENT_SHAPE),
            sampler="euler_a",
            num_inference_steps=3,
            guidance_scale=SCALE,
            generators=generators,
            batch_size=4,
        )

    together = images(2, 0, 1)
    for place, row in enumerate((2, 0, 1)):
        assert torch.equal(images(row)[0], together[place])


def test_a_task_that_was_not_asked_for_is_refused(
    upscaler_folder: Path, inpainter: LatentDiffusion, tmp_path: Path
) -> None:
    config = LatentDiffusionConfig(model=str(upscaler_folder))
    with pytest.raises(WeightsError, match="7 channels, as for upscaling; here it must be one for"):
        load_latent_diffusion(config, device="cpu")
    save_latent_diffusion(inpainter, tmp_path / "nine")
    config = LatentDiffusionConfig(model=str(tmp_path / "nine"))
    with pytest.raises(WeightsError, match="9 channels, as for inpainting"):
        load_latent_diffusion(config, device="cpu", tasks=("text_to_image", "upscaling"))
    with pytest.raises(WeightsError, match="takes 6 channels, and the autoencoder's latents"):
        random_model(tmp_path / "six", settings={**UNET, "in_channels": 6})
    assert inpainter.task == "inpainting"


def test_missing_and_misshapen_images_are_refused(
    inpainter: LatentDiffusion, upscaler: LatentDiffusion
) -> None:
    with pytest.raises(ValueError, match=r"takes 9 channels; there are 4 of latents and 0"):
        sample(inpainter, text_of(inpainter), "ddim")
    text = text_of(upscaler)[0]
    low = pictures(3, *LOW_SHAPE)
    with pytest.raises(ValueError, match="noise_level is 1000; allowed are 0 to 999"):
        condition_on_low_resolution(upscaler, text, images=low, noise=low, noise_level=1000)
    with pytest.raises(ValueError, match=r"images of .* and noise of"):
        condition_on_low_resolution(upscaler, text, images=low, noise=low[:2])
    with pytest.raises(ValueError, match="a mask of"):
        condition_on_masked_images(
            text, mask=torch.zeros(3, 1, 32, 32), masked_latents=torch.zeros(3, 4, 16, 16)
        )
