"""A row's image is its own: the same bytes in any company, at other batch sizes within a level."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_conditioning import encode_conditioning
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.samplers import SamplerName, samplers_of
from sd_core.sampling.text_to_image import generate_images
from tests import diffusion_cases
from tests.sd_core.sampling.cases import LATENT_SHAPE, random_model

BATCH = 16
PROMPTS = [f"a picture of {count} things" for count in range(BATCH)]
NEGATIVES = ["" if row % 3 else f"no {row}" for row in range(BATCH)]
SHUFFLED = [11, 3, 14, 0, 7, 9, 15, 2, 5, 12, 1, 8, 13, 4, 10, 6]
ALL = tuple(range(BATCH))
Text = tuple[Conditioning, Conditioning]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentDiffusion:
    return random_model(folder / "epsilon")


@pytest.fixture(scope="module")
def flow(folder: Path) -> LatentDiffusion:
    settings = diffusion_cases.TRANSFORMER
    return random_model(folder / "flow", settings=settings, prediction_type="flow")


def texts(model: LatentDiffusion) -> Text:
    return encode_conditioning(model, PROMPTS), encode_conditioning(model, NEGATIVES)


def images(
    model: LatentDiffusion,
    sampler: SamplerName,
    text: Text,
    rows: Sequence[int],
    batch_size: int = BATCH,
) -> Tensor:
    picks = torch.tensor(rows)
    generators = row_generators([100 + row for row in rows])
    return generate_images(
        model,
        conditioning=text[0].rows(picks),
        unconditional=text[1].rows(picks),
        noise=initial_noise(generators, shape=LATENT_SHAPE),
        sampler=sampler,
        num_inference_steps=3,
        guidance_scale=5.0,
        generators=generators,
        batch_size=batch_size,
    )


def test_order_and_company_do_not_change_a_byte(
    model: LatentDiffusion, flow: LatentDiffusion
) -> None:
    for either in (model, flow):
        text = texts(either)
        for sampler in samplers_of(either.noise_schedule):
            together = images(either, sampler, text, ALL)
            assert together.float().std() > 5, sampler
            assert torch.equal(images(either, sampler, text, SHUFFLED), together[SHUFFLED]), sampler
            assert torch.equal(images(either, sampler, text, [9])[0], together[9]), sampler


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpmpp_2m", "unipc"])
def test_another_batch_size_changes_a_pixel_by_a_level_at_most(
    model: LatentDiffusion, sampler: SamplerName
) -> None:
    text = texts(model)
    at_sixteen = images(model, sampler, text, ALL).int()
    for batch_size in (1, 4):
        other = images(model, sampler, text, ALL, batch_size).int()
        assert (other - at_sixteen).abs().max() <= 1
