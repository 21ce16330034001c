"""Grids that show how a training goes, always of the same prompts and noise, or the same images."""

import copy
import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.config import ConfigError
from pipelines.training.config import SamplesConfig
from sd_core.model.caption_tokenizer import load_caption_tokenizer
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.model.latent_diffusion_config import LatentDiffusionSections
from sd_core.model.noise_schedule import build_noise_schedule
from sd_core.model.text_conditioning import (
    encode_conditioning,
    encode_unconditional,
    native_time_ids,
)
from sd_core.model.weights import WeightsError
from sd_core.sampling.noise import initial_noise, numbered_seed, row_generators
from sd_core.sampling.picture_grid import Cell, picture_grid
from sd_core.sampling.samplers import build_sampler
from sd_core.sampling.steps_limit import StepsLimit
from sd_core.sampling.text_to_image import generate_images
from sd_core.say import Say
from sd_core.training.autoencoder_losses import psnr_db
from sd_core.training.image_batches import as_input
from sd_core.training.trained_autoencoder import TrainedAutoencoder

SAMPLES_FOLDER = "samples"
_LINE_CHARACTERS = 24
_PAIR_COLUMNS = 8
_PAIR_PX = 128

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """How the training goes: a PNG, and figures for the metrics."""

    image: bytes | None
    values: Mapping[str, float] = field(default_factory=dict)


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
    except ValueError as error:  # letters that cannot be drawn or read
        raise ConfigError(f"samples.prompts: {error}") from error
    if cut := int((counts > tokenizer.max_tokens).sum()):
        say(f"samples.prompts: {cut} longer than {tokenizer.max_tokens} tokens; the rest is cut")


def draw_samples(
    config: SamplesConfig, model: LatentDiffusion, weights: Mapping[str, Tensor]
) -> bytes | None:
    """A labelled PNG by the model with other weights; None where no prompts are configured."""
    if not config.prompts:
        return None
    generators = row_generators(
        [numbered_seed(config.seed, place) for place in range(len(config.prompts))]
    )
    count = len(config.prompts)
    images = generate_images(
        replace(model, denoiser=with_weights(model.denoiser, weights)),
        conditioning=encode_conditioning(
            model, config.prompts, time_ids=native_time_ids(model, count)
        ),
        unconditional=encode_unconditional(model, [""], time_ids=native_time_ids(model, 1)),
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
    return _png(picture_grid(cells, columns=math.ceil(math.sqrt(len(cells)))))


@torch.inference_mode()
def reconstruct(
    autoencoder: TrainedAutoencoder, originals: npt.NDArray[np.uint8], *, batch_size: int
) -> tuple[npt.NDArray[np.uint8], float]:
    """Decode images' posterior means, or nearest codes.

    Args:
        autoencoder: In eval mode.
        originals: (N, H, W, 3) uint8.
        batch_size: Images at a time.

    Returns:
        As many images, and their mean PSNR in dB.
    """
    device = next(autoencoder.parameters()).device
    found, ratios = [], []
    for images in torch.split(as_input(originals), batch_size):
        reconstructions = autoencoder(images.to(device)).images.float().clamp(-1, 1).cpu()
        ratios.append(psnr_db(reconstructions, images))
        found.append(((reconstructions + 1) * 127.5).round().to(torch.uint8))
    return torch.cat(found).permute(0, 2, 3, 1).numpy(), float(torch.cat(ratios).mean())


def draw_pairs(originals: npt.NDArray[np.uint8], reconstructions: npt.NDArray[np.uint8]) -> bytes:
    """A PNG of (N, H, W, 3) uint8 originals, each over its reconstruction, at least 128 px wide."""
    pairs = zip(originals, reconstructions, strict=True)
    cells = [Cell(np.concatenate(pair)) for pair in pairs]
    width = originals.shape[2]
    side = width * -(-_PAIR_PX // width)  # a whole multiple
    return _png(picture_grid(cells, columns=min(_PAIR_COLUMNS, len(cells)), side=side))


def with_weights(module: ModuleT, weights: Mapping[str, Tensor]) -> ModuleT:
    """A frozen copy with other weights; the training's own is left alone."""
    frozen = copy.deepcopy(module).eval().requires_grad_(False)
    frozen.load_state_dict(dict(weights), strict=False)
    return nn.Module.to(frozen, memory_format=torch.contiguous_format)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
