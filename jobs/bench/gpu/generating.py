"""Generation from prompts to image files: as it is, recorded, compiled, beside plain diffusers."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from jobs.bench.generate import plain_pipeline
from jobs.bench.gpu.item import Figure, Place, flops_of
from jobs.bench.gpu.models import generator_models, model_config
from pipelines.steps.generate import GenerateConfig
from pipelines.steps.generate.models import GenerateModels
from pipelines.steps.generate.painting import Painting
from pipelines.steps.generate.rows import ImageRow
from pipelines.steps.generate.step import ImageMaker
from pipelines.steps.overlap import run_overlapped
from sd_core.model.autoencoder import decode_latents
from sd_core.sampling.preparation import prepare_for_sampling
from sd_core.training.flops import forward_once

SAMPLER = "dpmpp_2m"
_PROMPT = "a photograph of a street in the rain with people under umbrellas, number {}"
_GUIDANCE = 7.5


def rows_of(models: GenerateModels, count: int, **options: Any) -> list[ImageRow]:
    """Rows of the model's own size."""
    given: dict[str, Any] = {
        "negative_prompt": "",
        "seed": 0,
        "num_inference_steps": 2,
        "guidance_scale": _GUIDANCE,
        "width": models.native_px,
        "height": models.native_px,
        "sampler": SAMPLER,
        **options,
    }
    return [
        ImageRow(
            row=number,
            key=f"{number:016x}-0",
            prompt_key=f"{number:016x}",
            image_index=0,
            prompt=_PROMPT.format(number),
            noise_seed=1000 + number,
            **given,
        )
        for number in range(count)
    ]


def config_of(place: Place, *, batch_size: int) -> GenerateConfig:
    return GenerateConfig(model=model_config(is_tiny=place.is_tiny), batch_size=batch_size)


def eager(place: Place) -> Iterator[Figure]:
    """As it is."""
    models = generator_models(place.device, is_tiny=place.is_tiny)
    for rows in (2,) if place.is_tiny else (16, 32):
        yield _ours(place, models, f"generation, batch {rows}", rows)


def plain(place: Place) -> Iterator[Figure]:
    """diffusers' own pipeline at the same batch, its images saved as it returns them."""
    models = generator_models(place.device, is_tiny=place.is_tiny)
    rows, steps = _sizes(place)
    pipeline = plain_pipeline(models.model, sampler=SAMPLER)
    prompts = [row.prompt for row in rows_of(models, rows)]

    def make(steps: int) -> None:
        with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
            images = pipeline(prompts, num_inference_steps=steps, guidance_scale=_GUIDANCE).images
            for number, image in enumerate(images):
                image.save(Path(folder) / f"{number}.png")

    place.forget_peak()
    make(2)
    seconds = _timed(place, lambda: make(steps))
    yield _figure(place, f"plain diffusers, batch {rows}", rows / seconds)


def recorded(place: Place) -> Iterator[Figure]:
    """With a CUDA graph of the denoiser."""
    models = generator_models(place.device, is_tiny=place.is_tiny)
    graphed = replace(models, model=prepare_for_sampling(models.model, cuda_graphs=True))
    for rows in (2,) if place.is_tiny else (4, 16):
        yield _ours(place, graphed, f"generation, recorded, batch {rows}", rows)


def compiled(place: Place) -> Iterator[Figure]:
    """With the denoiser's repeated blocks compiled, then recorded too. The last of its process."""
    models = generator_models(place.device, is_tiny=place.is_tiny)
    rows, _ = _sizes(place)
    _flops(place.device, is_tiny=place.is_tiny)
    started = time.perf_counter()
    blocks = replace(models, model=prepare_for_sampling(models.model, compile="blocks"))
    paint(place, blocks, rows_of(models, rows), batch_size=rows)
    yield Figure(
        name="compiling the blocks", value=time.perf_counter() - started, unit="s, and two steps"
    )
    yield _ours(place, blocks, f"generation, blocks compiled, batch {rows}", rows)
    both = replace(models, model=prepare_for_sampling(blocks.model, cuda_graphs=True))
    yield _ours(place, both, f"generation, compiled and recorded, batch {rows}", rows)


def paint(
    place: Place, models: GenerateModels, rows: Sequence[ImageRow], *, batch_size: int
) -> None:
    """The step's own way from rows to image files."""
    maker = ImageMaker(models, config_of(place, batch_size=batch_size), None, None)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        spool = maker.open_spool(Path(folder))
        with spool:
            painting = Painting(maker.painter, spool.failures)

            def write(denoised: Any) -> None:
                for painted in painting.decode(denoised):
                    spool.add(painted, maker.parameters)

            batches = painting.prepare(maker.group(rows))
            run_overlapped(batches, work=painting.denoise, write=write)
        painting.finish()
        assert len(spool.made) == len(rows), "images are missing"


def _ours(place: Place, models: GenerateModels, name: str, batch_size: int) -> Figure:
    steps = _sizes(place)[1]
    place.forget_peak()
    paint(place, models, rows_of(models, batch_size), batch_size=batch_size)
    count = batch_size * (1 if place.is_tiny else 3)
    rows = rows_of(models, count, num_inference_steps=steps)
    seconds = _timed(place, lambda: paint(place, models, rows, batch_size=batch_size))
    return _figure(place, name, count / seconds)


def _figure(place: Place, name: str, per_second: float) -> Figure:
    told = f"{name}, {_sizes(place)[1]} steps"
    flops = _flops(place.device, is_tiny=place.is_tiny)
    return place.figure(told, per_second, flops=flops, unit="images/s")


@cache
def _flops(device: torch.device, *, is_tiny: bool) -> float:
    """Of an image; to be asked first before anything is compiled, which hides them."""
    model = generator_models(device, is_tiny=is_tiny).model
    steps = _sizes(Place(device=device, is_tiny=is_tiny))[1]
    latents = torch.zeros(1, *model.latents_shape, device=device)
    decoding = flops_of(lambda: decode_latents(model.autoencoder, latents))
    return 2 * steps * flops_of(lambda: forward_once(model)) + decoding


def _timed(place: Place, work: Any) -> float:
    started = time.perf_counter()
    work()
    place.wait()
    return time.perf_counter() - started


def _sizes(place: Place) -> tuple[int, int]:
    """Rows of a batch, and steps."""
    return (2, 2) if place.is_tiny else (16, 20)
