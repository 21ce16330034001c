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

from pipelines.training.config import SamplesConfig
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_conditioning import encode_conditioning, encode_unconditional
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.picture_grid import Cell, Line, picture_grid
from sd_core.sampling.text_to_image import generate_images

SAMPLES_FOLDER = "samples"
_LINE_CHARACTERS = 24


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
        generators = row_generators([config.seed + place for place in range(count)])
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
        Cell(image, [Line(text) for text in textwrap.wrap(prompt, _LINE_CHARACTERS)])
        for image, prompt in zip(images, prompts, strict=True)
    ]
    stream = io.BytesIO()
    picture_grid(cells, columns=math.ceil(math.sqrt(len(cells)))).save(stream, "PNG")
    return stream.getvalue()


def _with_weights(model: LatentDiffusion, weights: Mapping[str, Tensor]) -> LatentDiffusion:
    denoiser = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
    denoiser.load_state_dict(dict(weights), strict=False)
    return replace(model, denoiser=denoiser)
