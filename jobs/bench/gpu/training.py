"""Training the UNet: batches at hand with and without checkpointing and compiled, then from a
cache with embeddings, with the share of the time in which the device has nothing to do."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jobs.bench.gpu.item import Figure, Place, flops_of
from jobs.bench.gpu.models import trained_model
from jobs.bench.train import SilentEvents, cached_batches
from jobs.bench.train_cache import write_random_cache
from sd_core.errors import is_out_of_memory
from sd_core.model.latent_diffusion import LatentDiffusion
from sd_core.training.batches import TrainingBatch
from sd_core.training.config import LoopConfig, OptimizerConfig
from sd_core.training.denoiser_task import DenoiserTask
from sd_core.training.flops import forward_once
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.trainer import Trainer

_WARM_UP, _STEPS = 2, 4


def unet_eager(place: Place) -> Iterator[Figure]:
    """As it is."""
    yield from _at_sizes(place, (2,) if place.is_tiny else (16, 32, 64))


def unet_checkpointed(place: Place) -> Iterator[Figure]:
    """With gradient checkpointing."""
    yield from _at_sizes(
        place, (2,) if place.is_tiny else (32, 64, 128), gradient_checkpointing=True
    )


def unet_compiled(place: Place) -> Iterator[Figure]:
    """Compiled."""
    yield from _at_sizes(place, (2,) if place.is_tiny else (32,), compile=True)


def from_cache(place: Place) -> Iterator[Figure]:
    """From a cache with embeddings, and how long the device waits."""
    model = trained_model(place.device, is_tiny=place.is_tiny)
    rows = 2 if place.is_tiny else 32
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        cache = write_random_cache(Path(folder), model=model, rows=max(64, 8 * rows))
        batches = cached_batches(cache, batch_size=rows)
        try:
            trainer = _trainer(place, model, rows)
            place.forget_peak()
            yield _rate(place, f"from a cache, batch {rows}", trainer, batches, rows)
            if place.device.type == "cuda":
                yield _idle_share(trainer, batches)
        finally:
            batches.close()


def _at_sizes(place: Place, sizes: tuple[int, ...], **options: Any) -> Iterator[Figure]:
    model = trained_model(place.device, is_tiny=place.is_tiny)
    told = ", ".join(name.replace("_", " ") for name in options)
    for rows in sizes:
        name = f"UNet training, micro-batch {rows}{', ' * bool(told)}{told}"
        try:
            trainer = _trainer(place, model, rows, **options)
            place.forget_peak()
            yield _rate(place, name, trainer, random_batches(model, rows), rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            yield Figure(name=f"{name}: the memory does not hold it")
        del trainer


def _trainer(place: Place, model: LatentDiffusion, rows: int, **options: Any) -> Trainer:
    task = DenoiserTask(
        model, objective=ObjectiveConfig(), optimizer=OptimizerConfig(), ema_decay=0.9999
    )
    never = 10**9
    loop = LoopConfig(
        steps=never,
        batch_size=rows,
        log_every=_STEPS,
        checkpoint_every=never,
        sample_every=never,
        channels_last=place.device.type == "cuda",
        **options,
    )
    return Trainer(task, loop, device=place.device, events=SilentEvents())


def _rate(place: Place, name: str, trainer: Trainer, batches: Iterator[Any], rows: int) -> Figure:
    trainer.run(batches, until=_WARM_UP)
    place.wait()
    started = time.perf_counter()
    trainer.run(batches, until=_WARM_UP + _STEPS)
    place.wait()
    per_second = _STEPS * rows / (time.perf_counter() - started)
    flops = 3 * flops_of(lambda: forward_once(trained_model(place.device, is_tiny=place.is_tiny)))
    return place.figure(name, per_second, flops=flops, unit="images/s")


def _idle_share(trainer: Trainer, batches: Iterator[Any]) -> Figure:
    """Of a few steps, between the first kernel and the last."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        trainer.run(batches, until=trainer.step + 3)
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type.name == "CUDA"
    )
    busy, end = 0.0, spans[0][0]
    for begin, stop in spans:
        busy += max(0.0, stop - max(begin, end))
        end = max(end, stop)
    share = 1 - busy / (end - spans[0][0])
    return Figure(name="from a cache: the device idles", value=100 * share, unit="% of the time")


def random_batches(model: LatentDiffusion, rows: int) -> Iterator[TrainingBatch]:
    """The same made-up batch again and again."""
    shape = model.latents_shape
    encoder = model.text_encoder
    batch = TrainingBatch(
        keys=tuple(map(str, range(rows))),
        latents=torch.randn(rows, *shape),
        noise=torch.randn(rows, *shape),
        uniforms=torch.rand(rows),
        input_ids=torch.zeros(rows, encoder.token_length, dtype=torch.long),
        prompt_embeds=torch.randn(rows, encoder.token_length, encoder.embed_dim),
    )
    return itertools.repeat(batch)
