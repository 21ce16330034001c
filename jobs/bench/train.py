"""Training from a cache beside encoding online, and what the loader alone can feed."""

import itertools
import tempfile
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from jobs.bench.train_cache import write_random_cache
from sd_core.cache.dataset import TrainingDataset
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.latents import sample_posterior, scale_latents
from sd_core.model.autoencoder import encode_images
from sd_core.model.autoencoder_config import AutoencoderConfig
from sd_core.model.clip import ClipConfig
from sd_core.model.denoiser import DenoiserConfig
from sd_core.model.latent_diffusion import (
    LatentDiffusion,
    LatentDiffusionConfig,
    load_latent_diffusion,
)
from sd_core.model.precision import model_dtype
from sd_core.model.text_encoder import TextEncoderConfig, encode_captions
from sd_core.say import Say
from sd_core.training.batches import GatheredBatch, TrainingBatch, collate
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.flops import count_flops, forward_once, measure_peak
from sd_core.training.metrics import Metrics
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.prefetch import prefetch
from sd_core.training.task import TaskBatch
from sd_core.training.trainer import Trainer

_CAPTION = "a photograph of a street in the rain with people under umbrellas, number {}"


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """What to measure."""

    models: Literal["tiny", "real"]
    """`tiny`: the presets; `real`: Stable Diffusion 1.5's sizes at 512 px, random weights."""
    batch_size: int
    warm_up_steps: int
    steps: int
    """Measured, after the warm-up."""
    repeats: int
    """Of each side, in turns; the fastest counts."""
    loader_rows: int
    device: str


@dataclass(frozen=True, kw_only=True)
class LoaderResult:
    """Latents of 4 x 64 x 64 a second, from one process."""

    form: str
    format: str
    drawn_per_second: float
    """Read and checked, in the training's order."""
    batches_per_second: float
    """And sampled, scaled, noised and stacked: what a step takes, in samples a second."""


@dataclass(frozen=True, kw_only=True)
class TrainBenchResult:
    """Images a second of one model, from the cache and from the images."""

    models: str
    device: str
    cached_per_second: float
    online_per_second: float
    flops_share: float
    """Of the cached training: computed work over what the device reaches."""

    @property
    def ratio(self) -> float:
        """How much faster training from the cache is."""
        return self.cached_per_second / self.online_per_second


def measure_loader(bench: TrainBench, *, say: Say) -> list[LoaderResult]:
    """Read a made-up cache of Stable Diffusion's sizes, in each form and format."""
    found = []
    for form, file_format in itertools.product(("mean", "moments"), ("webdataset", "parquet")):
        with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
            cache = write_random_cache(
                Path(folder), form=form, file_format=file_format, rows=bench.loader_rows
            )
            result = LoaderResult(
                form=form,
                format=file_format,
                drawn_per_second=_drawing_rate(cache, bench),
                batches_per_second=_batch_rate(cache, bench),
            )
        say(f"loader, {form} in {file_format}: {result.drawn_per_second:,.0f} latents/s")
        found.append(result)
    return found


def measure_train(bench: TrainBench, *, say: Say) -> TrainBenchResult:
    """Train the same model from a cache and from images that are encoded at each step."""
    device = torch.device(bench.device)
    model = train_models(bench.models, device)
    online = _online_batches(model, bench)
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        cache = write_random_cache(Path(folder), model=model, rows=max(64, 2 * bench.batch_size))
        cached = cached_batches(cache, batch_size=bench.batch_size)
        rates: dict[str, list[float]] = {"cached": [], "online": []}
        for name, batches in (("cached", cached), ("online", online)) * bench.repeats:
            rates[name].append(_training_rate(model, batches, bench, device))
            say(f"{bench.models} models, {name}: {rates[name][-1]:.2f} images/s")
        cached.close()
    dtype = model_dtype("auto", device)
    flops = 3 * count_flops(lambda: forward_once(model))
    best = max(rates["cached"])
    return TrainBenchResult(
        models=bench.models,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        cached_per_second=best,
        online_per_second=max(rates["online"]),
        flops_share=best * flops / measure_peak(device, dtype),
    )


def dataset_of(cache: LatentCache) -> TrainingDataset:
    """A training's order of one cache."""
    return TrainingDataset([cache], weights=[1.0], seed=0)


def _drawing_rate(cache: LatentCache, bench: TrainBench) -> float:
    batches = dataset_of(cache).batches(batch_size=64)
    return _rate(batches, rows=2 * bench.loader_rows, batch_size=64)


def _batch_rate(cache: LatentCache, bench: TrainBench) -> float:
    batches = prefetch(collated_batches(cache, batch_size=64))
    try:
        return _rate(batches, rows=bench.loader_rows, batch_size=64)
    finally:
        batches.close()


def _rate(batches: Iterator[object], *, rows: int, batch_size: int) -> float:
    next(batches)  # opens the shards
    count = max(1, rows // batch_size)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch_size / (time.perf_counter() - started)


def collated_batches(
    cache: LatentCache, *, batch_size: int
) -> Generator[GatheredBatch, None, None]:
    """As a training's loader makes them, before the step's own casts."""
    with ThreadPoolExecutor(4) as threads:
        for drawn in dataset_of(cache).batches(batch_size=batch_size):
            yield collate(drawn, [cache], seed=0, objective=ObjectiveConfig(), threads=threads)


def cached_batches(cache: LatentCache, *, batch_size: int) -> Generator[GatheredBatch, None, None]:
    """What a training takes, read ahead; to be closed."""
    return prefetch(collated_batches(cache, batch_size=batch_size))


def _online_batches(model: LatentDiffusion, bench: TrainBench) -> Iterator[TrainingBatch]:
    """The same batches made of images at hand, encoded at each step."""
    side = model.latents_shape[-1] * model.autoencoder.downsampling
    rng = np.random.default_rng(0)
    images = torch.from_numpy(
        rng.integers(0, 256, (bench.batch_size, 3, side, side), dtype=np.uint8)
    )
    captions = [_CAPTION.format(place) for place in range(bench.batch_size)]
    identity = model.identity.autoencoder
    for _ in itertools.count():
        pixels = images.to(model.autoencoder.device).float() / 127.5 - 1
        moments = encode_images(model.autoencoder, pixels, form="moments").clone()
        text = encode_captions(model.text_encoder, captions)
        shape = moments[:, : identity.latent_channels].shape
        raw = sample_posterior(moments, noise=torch.randn(shape, device=moments.device))
        yield TrainingBatch(
            keys=tuple(map(str, range(bench.batch_size))),
            latents=scale_latents(raw, identity),
            noise=torch.randn(shape),
            uniforms=torch.rand(bench.batch_size),
            input_ids=text.input_ids.long(),
            prompt_embeds=text.prompt_embeds.clone(),
        )


class SilentEvents:
    """Keeps nothing."""

    def on_metrics(self, metrics: Metrics) -> None:
        """Nothing is said."""

    def on_checkpoint(self, step: int, trainer: Trainer) -> None:
        """Nothing is kept."""

    def on_samples(self, step: int, trainer: Trainer) -> None:
        """Nothing is shown."""


def silent_trainer(
    model: LatentDiffusion, *, device: torch.device, batch_size: int, steps: int
) -> Trainer:
    """Ours as it is configured by default, which stores and says nothing."""
    task = DenoiserTask(
        replace(model), objective=ObjectiveConfig(), optimizer=OptimizerConfig(), ema_decay=0.9999
    )
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        log_every=10**9,
        checkpoint_every=10**9,
        sample_every=10**9,
        channels_last=device.type == "cuda",
    )
    return Trainer(task, loop, device=device, events=SilentEvents())


def _training_rate(
    model: LatentDiffusion,
    batches: Iterator[TaskBatch],
    bench: TrainBench,
    device: torch.device,
) -> float:
    steps = bench.warm_up_steps + bench.steps
    trainer = silent_trainer(model, device=device, batch_size=bench.batch_size, steps=steps)
    if bench.warm_up_steps:
        trainer.run(batches, until=bench.warm_up_steps)
    _wait(device)
    started = time.perf_counter()
    trainer.run(batches)
    _wait(device)
    return bench.steps * bench.batch_size / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train_models(models: Literal["tiny", "real"], device: torch.device) -> LatentDiffusion:
    """The models that are trained, with the same random weights each time."""
    return load_latent_diffusion(_model_config(models), device=device)


def _model_config(models: Literal["tiny", "real"]) -> LatentDiffusionConfig:
    if models == "tiny":
        return LatentDiffusionConfig(
            autoencoder=AutoencoderConfig(model="preset:tiny/autoencoder"),
            text_encoder=TextEncoderConfig(clip=ClipConfig(name="preset:tiny/clip")),
            denoiser=DenoiserConfig(model="tiny", pretrained=False, precision="fp32"),
        )
    return LatentDiffusionConfig(
        autoencoder=AutoencoderConfig(model="sd-v1", pretrained=False),
        text_encoder=TextEncoderConfig(
            clip=ClipConfig(name="ViT-L-14-quickgelu", pretrained=False)
        ),
        denoiser=DenoiserConfig(model="sd-v1", pretrained=False, precision="fp32"),
    )
