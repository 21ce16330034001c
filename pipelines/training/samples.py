"""A grid of images by the model as it is, always of the same prompts and noise."""

import copy
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipelines.config import ConfigError
from pipelines.training.config import SamplesConfig
from sd_core.model.caption_tokenizer import load_caption_tokenizer
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.latent_diffusion_config import LatentDiffusionSections
from sd_core.model.noise_schedule import build_noise_schedule
from sd_core.model.text_conditioning import encode_conditioning, encode_unconditional
from sd_core.model.weights import WeightsError
from sd_core.sampling.noise import initial_noise, numbered_seed, row_generators
from sd_core.sampling.picture_grid import Cell, picture_grid
from sd_core.sampling.samplers import build_sampler
from sd_core.sampling.steps_limit import StepsLimit
from sd_core.sampling.text_to_image import generate_images
from sd_core.say import Say

SAMPLES_FOLDER = "samples"
_LINE_CHARACTERS = 24


def check_samples(config: SamplesConfig, sections: LatentDiffusionSections, *, say: Say) -> None:
    """Refuse a grid that could not be drawn; say which prompts the text encoder cuts.

    Raises:
        ConfigError: naming the setting, what was found and what is allowed.
        WeightsError: the tokenizer cannot be had.
    """
    if not config.prompts:
        return
    schedule = build_noise_schedule(sections.noise_schedule, scheduler=sections.scheduler)
    try:
        build_sampler(config.sampler, schedule)
    except (WeightsError, ValueError) as error:
        raise ConfigError(f"samples.sampler: {error}") from error
    fault = StepsLimit(noise_schedule=schedule).fault(config.sampler, config.num_inference_steps)
    if fault is not None:
        raise ConfigError(f"samples.num_inference_steps: {fault}")
    tokenizer = load_caption_tokenizer(sections.text_encoder)
    try:
        draw_grid(np.zeros((len(config.prompts), 1, 1, 3), np.uint8), config.prompts)
        counts = tokenizer.count(config.prompts)
    except ValueError as error:  # half of a surrogate pair
        raise ConfigError(f"samples.prompts: cannot be drawn: {error}") from error
    if cut := int((counts > tokenizer.max_tokens).sum()):
        say(f"samples.prompts: {cut} longer than {tokenizer.max_tokens} tokens; the rest is cut")


class SampleGrid:
    """Draws the grid with weights of a training; the training's own module is left alone."""

    def __init__(self, config: SamplesConfig, model: LatentDiffusion) -> None:
        self._config = config
        self._model = model

    def draw(self, weights: Mapping[str, Tensor]) -> bytes | None:
        """A labelled PNG; None where no prompts are configured."""
        config = self._config
        if not config.prompts:
            return None
        model = _with_weights(self._model, weights)
        count = len(config.prompts)
        generators = row_generators([numbered_seed(config.seed, place) for place in range(count)])
        images = generate_images(
            model,
            conditioning=encode_conditioning(model, config.prompts),
            unconditional=encode_unconditional(model, [""]),
            noise=initial_noise(generators, shape=model.latents_shape),
            sampler=config.sampler,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            generators=generators,
        )
        return draw_grid(images.numpy(), config.prompts)


def newest_sample_grid(output: Path) -> Path:
    """The last grid of a training on local disk; raises FileNotFoundError where there is none."""
    grids = sorted((output / SAMPLES_FOLDER).glob("step-*.png"))
    if not grids:
        raise FileNotFoundError(f"{output / SAMPLES_FOLDER}: no grid of samples")
    return grids[-1]


def draw_grid(images: npt.NDArray[np.uint8], prompts: Sequence[str]) -> bytes:
    """(N, H, W, 3) uint8 images over their prompts, as a PNG."""
    cells = [
        Cell(image, textwrap.wrap(prompt, _LINE_CHARACTERS))
        for image, prompt in zip(images, prompts, strict=True)
    ]
    stream = io.BytesIO()
    picture_grid(cells, columns=math.ceil(math.sqrt(len(cells)))).save(stream, "PNG")
    return stream.getvalue()


def _with_weights(model: LatentDiffusion, weights: Mapping[str, Tensor]) -> LatentDiffusion:
    denoiser = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
    denoiser.load_state_dict(dict(weights), strict=False)
    return replace(model, denoiser=denoiser)
