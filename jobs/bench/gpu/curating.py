"""Scoring and encoding: the model alone, on pixels that are on the device, and the whole step."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from jobs.bench.gpu.crops import draw_crops, images_of, verdicts_of, write_crops
from jobs.bench.gpu.item import Figure, Place, flops_of
from jobs.bench.gpu.models import clip_config, encode_config, model_config, score_config
from pipelines.run.store import RunStore
from pipelines.steps.encode import EncodeStep
from pipelines.steps.model_worker import ModelStep
from pipelines.steps.score import ScoreStep
from pipelines.steps.step import Resources
from sd_core.model.autoencoder import encode_images, load_autoencoder
from sd_core.model.buckets import Bucket
from sd_core.model.clip import load_clip
from sd_core.model.latent_diffusion_config import sections_of

_SHARDS = 3  # of which the first warms up


def clip_alone(place: Place) -> Iterator[Figure]:
    """CLIP's image tower."""
    clip = load_clip(clip_config(is_tiny=place.is_tiny), device=place.device)
    side = clip.image_size
    with torch.inference_mode():
        one = torch.zeros((1, 3, side, side), dtype=torch.uint8, device=place.device)
        flops = flops_of(lambda: clip.encode_images(one))
        for rows in (4,) if place.is_tiny else (64, 256):
            images = one.expand(rows, -1, -1, -1).contiguous()
            yield place.rate(
                f"CLIP's image tower, batch {rows}",
                partial(clip.encode_images, images),
                rows=rows,
                flops=flops,
            )


def score_step(place: Place) -> Iterator[Figure]:
    """The whole step: from tars to committed scores."""
    batch_size, rows = (4, 8) if place.is_tiny else (256, 2048)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as made:
        folder = Path(made)
        config = score_config(folder, is_tiny=place.is_tiny, batch_size=batch_size)

        def step(store: RunStore) -> ModelStep:
            return ScoreStep(
                store,
                fingerprint="bench",
                images=images_of(store),
                config=config,
                torch_threads=torch.get_num_threads(),
                resources=_resources(place),
            )

        yield from _whole(place, folder, "the score step", step, rows=rows)


def vae_alone(place: Place) -> Iterator[Figure]:
    """The autoencoder's encoder."""
    sections = sections_of(model_config(is_tiny=place.is_tiny))
    autoencoder = load_autoencoder(sections.autoencoder, device=place.device)
    with torch.inference_mode():
        one = torch.zeros((1, 3, place.side_px, place.side_px), device=place.device)
        flops = flops_of(lambda: encode_images(autoencoder, one, form="moments"))
        for rows in (2,) if place.is_tiny else (8, 32):
            images = one.expand(rows, -1, -1, -1).contiguous()
            yield place.rate(
                f"the autoencoder's encoder, batch {rows}",
                partial(encode_images, autoencoder, images, form="moments"),
                rows=rows,
                flops=flops,
            )


def encode_step(place: Place) -> Iterator[Figure]:
    """The whole step: from tars to a committed latent cache with embeddings."""
    batch_size, rows = (4, 8) if place.is_tiny else (32, 512)
    config = encode_config(is_tiny=place.is_tiny, batch_size=batch_size)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as made:

        def step(store: RunStore) -> ModelStep:
            return EncodeStep(
                store,
                fingerprint="bench",
                images=images_of(store),
                verdicts=verdicts_of(store),
                num_image_shards=_SHARDS,
                config=config,
                sizes=(Bucket(width=place.side_px, height=place.side_px),),
                torch_threads=torch.get_num_threads(),
                resources=_resources(place),
            )

        yield from _whole(place, Path(made), "the encode step", step, rows=rows)


def _whole(
    place: Place, folder: Path, name: str, make: Callable[[RunStore], ModelStep], *, rows: int
) -> Iterator[Figure]:
    store = write_crops(folder, shards=_SHARDS, rows_per_shard=rows, side_px=place.side_px)
    step = make(store)
    step.open()
    try:
        place.forget_peak()
        step.run(0)
        started = time.perf_counter()
        for shard_id in range(1, _SHARDS):
            step.run(shard_id)
        per_second = (_SHARDS - 1) * rows / (time.perf_counter() - started)
        yield place.figure(
            f"{name}, batch {step.batch_size}", per_second, flops=None, unit="images/s"
        )
    finally:
        step.close()


def _resources(place: Place) -> Resources:
    return Resources(num_gpus=float(place.device.type == "cuda"))


def drawn_images(place: Place, count: int) -> torch.Tensor:
    """(count, 3, side, side) uint8 on the CPU."""
    return torch.from_numpy(draw_crops(count, side_px=place.side_px).transpose(0, 3, 1, 2).copy())
