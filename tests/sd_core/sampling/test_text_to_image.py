"""Our sampling is diffusers' own to the pixel, and an image does not depend on its batch."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import numpy.typing as npt
import pytest

from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.latent_diffusion_saving import save_latent_diffusion
from sd_core.model.text_conditioning import (
    encode_conditioning,
    encode_unconditional,
    size_time_ids,
)
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SamplerName, samplers_of
from sd_core.sampling.text_to_image import generate_images, generate_latents
from tests import diffusion_cases
from tests.sd_core.sampling.cases import CAPTIONS, LATENT_SHAPE, random_model

SEEDS = [11, 12, 13]
SCHEDULES: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "zero_snr": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "flow": {"prediction_type": "flow", "settings": diffusion_cases.TRANSFORMER},
}
CLASSES = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
CASES = [
    (schedule, sampler)
    for schedule in ("epsilon", "zero_snr")
    for sampler in CLASSES
    if (schedule, sampler) != ("zero_snr", "pndm")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, LatentDiffusion]:
    return {name: random_model(folder / name, **options) for name, options in SCHEDULES.items()}


@pytest.fixture(scope="module")
def pipelines(folder: Path, models: dict[str, LatentDiffusion]) -> dict[str, Any]:
    opened = {}
    for name in ("epsilon", "zero_snr"):
        save_latent_diffusion(models[name], folder / name / "saved")
        family: Any = diffusers.StableDiffusionPipeline
        opened[name] = family.from_pretrained(folder / name / "saved", safety_checker=None)
        opened[name].set_progress_bar_config(disable=True)
    return opened


def images(
    model: LatentDiffusion, sampler: SamplerName, *, rows: slice = slice(None), **options: Any
) -> npt.NDArray[np.uint8]:
    generators = row_generators(SEEDS[rows])
    arguments: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 5.0, **options}
    generated = generate_images(
        model,
        conditioning=encode_conditioning(model, CAPTIONS[rows]),
        unconditional=encode_conditioning(model, [""]),
        noise=initial_noise(generators, shape=LATENT_SHAPE),
        sampler=sampler,
        generators=generators,
        **arguments,
    )
    return generated.numpy()


def of_diffusers(pipeline: Any, sampler: str, **options: Any) -> npt.NDArray[np.uint8]:
    name, settings = CLASSES[sampler]
    found = getattr(diffusers, name).from_config(pipeline.scheduler.config, **settings)
    before, pipeline.scheduler = pipeline.scheduler, found
    arguments = {"num_inference_steps": 6, "guidance_scale": 5.0, **options}
    generators = row_generators(SEEDS)
    pictures = pipeline(CAPTIONS, generator=generators, output_type="pil", **arguments).images
    pipeline.scheduler = before
    return np.stack([np.asarray(picture) for picture in pictures])


def furthest(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> int:
    assert ours.shape == theirs.shape
    assert ours.std() > 5, "an empty picture compares nothing"
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize(("schedule", "sampler"), CASES)
def test_images_are_those_of_diffusers_own_pipeline(
    models: dict[str, LatentDiffusion],
    pipelines: dict[str, Any],
    schedule: str,
    sampler: SamplerName,
) -> None:
    ours = images(models[schedule], sampler)
    assert furthest(ours, of_diffusers(pipelines[schedule], sampler)) <= 1


@pytest.mark.parametrize("options", [{"guidance_rescale": 0.7}, {"guidance_scale": 1.0}])
def test_so_they_are_with_rescaling_and_without_guidance(
    models: dict[str, LatentDiffusion], pipelines: dict[str, Any], options: dict[str, float]
) -> None:
    ours = images(models["zero_snr"], "ddim", **options)
    assert furthest(ours, of_diffusers(pipelines["zero_snr"], "ddim", **options)) <= 1
    assert not np.array_equal(ours, images(models["zero_snr"], "ddim"))


def test_the_two_text_encoders_of_xl_give_what_diffusers_gives(tmp_path: Path) -> None:
    saved = diffusion_cases.diffusers_xl_folder(tmp_path / "theirs")
    config = LatentDiffusionConfig(model=str(saved))
    model = load_latent_diffusion(config, device="cpu")
    save_latent_diffusion(model, tmp_path / "ours")
    family: Any = diffusers.StableDiffusionXLPipeline
    pipeline = family.from_pretrained(tmp_path / "ours", add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    generators = row_generators(SEEDS)
    sizes = size_time_ids(3, height_px=32, width_px=32)
    ours = generate_images(
        model,
        conditioning=encode_conditioning(model, CAPTIONS, time_ids=sizes),
        unconditional=encode_unconditional(model, [""], time_ids=sizes[:1]),
        noise=initial_noise(generators, shape=LATENT_SHAPE),
        sampler="dpmpp_2m",
        num_inference_steps=6,
        guidance_scale=5.0,
    )
    assert furthest(ours.numpy(), of_diffusers(pipeline, "dpmpp_2m")) <= 1


def test_every_sampler_gives_finite_latents(models: dict[str, LatentDiffusion]) -> None:
    for model in models.values():
        for sampler in samplers_of(model.noise_schedule):
            generators = row_generators(SEEDS)
            latents = generate_latents(
                model,
                conditioning=encode_conditioning(model, CAPTIONS),
                unconditional=encode_conditioning(model, [""]),
                noise=initial_noise(generators, shape=LATENT_SHAPE),
                sampler=sampler,
                num_inference_steps=3,
                guidance_scale=3.0,
                generators=generators,
            )
            assert latents.shape == (3, *LATENT_SHAPE)
            assert latents.isfinite().all(), sampler


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_an_image_does_not_depend_on_the_rows_beside_it(
    models: dict[str, LatentDiffusion], sampler: SamplerName
) -> None:
    model = models["epsilon"]
    together = images(model, sampler, batch_size=2)
    for row in range(3):
        alone = images(model, sampler, rows=slice(row, row + 1), batch_size=2)
        assert np.array_equal(alone[0], together[row]), row


def test_rows_that_do_not_match_are_refused(models: dict[str, LatentDiffusion]) -> None:
    model = models["epsilon"]
    arguments: dict[str, Any] = {
        "conditioning": encode_conditioning(model, CAPTIONS),
        "unconditional": encode_conditioning(model, [""]),
        "noise": initial_noise(row_generators(SEEDS), shape=LATENT_SHAPE),
        "sampler": "ddim",
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
    }
    with pytest.raises(ValueError, match="conditioning has 3 rows and the noise 2"):
        generate_latents(model, **{**arguments, "noise": arguments["noise"][:2]})
    two = encode_conditioning(model, ["", ""])
    with pytest.raises(ValueError, match="unconditional has 2 rows and the noise 3"):
        generate_latents(model, **{**arguments, "unconditional": two})
    with pytest.raises(ValueError, match="'euler_a' draws noise at every step"):
        generate_latents(model, **{**arguments, "sampler": "euler_a"})
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        generate_latents(model, **{**arguments, "num_inference_steps": 0})
