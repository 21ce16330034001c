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
from PIL import Image, ImageDraw
from torch import Tensor

from pipelines.training.config import SamplesConfig
from sd_core.model.conditioning import Conditioning
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.text_encoder import encode_captions
from sd_core.sampling.noise import initial_noise, row_generators
from sd_core.sampling.text_to_image import generate_images

SAMPLES_FOLDER = "samples"
_LABEL_HEIGHT_PX = 36
_CELL_WIDTH_PX = 128


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
        captions = encode_captions(model.text_encoder, [*config.prompts, ""]).prompt_embeds
        count = len(config.prompts)
        generators = row_generators([config.seed + place for place in range(count)])
        images = generate_images(
            model,
            conditioning=_conditioning(captions[:count]),
            unconditional=_conditioning(captions[count:]),
            noise=initial_noise(generators, shape=_shape(model)),
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


def draw_grid(images: npt.NDArray[np.uint8], labels: Sequence[str]) -> bytes:
    """(N, H, W, 3) uint8 images over their labels, as a PNG."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width = max(_CELL_WIDTH_PX, images.shape[2])
    height = images.shape[1] * width // images.shape[2]
    sheet = Image.new("RGB", (columns * width, rows * (height + _LABEL_HEIGHT_PX)), "white")
    brush = ImageDraw.Draw(sheet)
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = place % columns * width, place // columns * (height + _LABEL_HEIGHT_PX)
        sheet.paste(
            Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), (x, y)
        )
        brush.multiline_text((x + 2, y + height + 1), _wrap(label, width), fill="black", spacing=0)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def _wrap(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width // 6)[:3])


def _with_weights(model: LatentDiffusion, weights: Mapping[str, Tensor]) -> LatentDiffusion:
    denoiser = copy.deepcopy(model.denoiser).eval().requires_grad_(False)
    denoiser.load_state_dict(dict(weights), strict=False)
    return replace(model, denoiser=denoiser)


def _conditioning(prompt_embeds: Tensor) -> Conditioning:
    return Conditioning(prompt_embeds=prompt_embeds, pooled_prompt_embeds=None, time_ids=None)


def _shape(model: LatentDiffusion) -> tuple[int, int, int]:
    side = int(model.denoiser.config["sample_size"])  # type: ignore[index]
    return model.autoencoder.latent_channels, side, side
