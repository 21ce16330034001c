"""Whether the same rows give the same bytes twice and in other company, and what bf16 changes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jobs.bench.gpu.crashing import paint_rows
from jobs.bench.gpu.curating import drawn_images
from jobs.bench.gpu.generating import rows_of
from jobs.bench.gpu.item import Figure, Place
from jobs.bench.gpu.models import encode_config, generator_models, score_config
from pipelines.steps.encode.encode import (
    EncodeModels,
    batch_inputs,
    encode_batch,
    load_encode_models,
    pixels_for,
)
from pipelines.steps.score.score import ScoreModels, load_score_models, score_images
from sd_core.model.buckets import Bucket
from sd_core.model.transfer import Transfers

_BATCH = 4


def images(place: Place) -> Iterator[Figure]:
    """Of generation: a row alone, and among others."""
    models = generator_models(place.device, is_tiny=place.is_tiny)
    rows = rows_of(models, _BATCH)

    def made(count: int) -> torch.Tensor:
        [painted] = paint_rows(place, models, rows[:count], batch_size=_BATCH)
        return painted.images[0]

    first = made(_BATCH)
    yield _same("an image made twice", first.numpy(), made(_BATCH).numpy())
    yield _same("an image in other company", first.numpy(), made(1).numpy())


def scores(place: Place) -> Iterator[Figure]:
    """Of score and encode: rows twice, and in another order."""
    pictures = drawn_images(place, _BATCH)
    turned = pictures.roll(1, 0)
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        config = score_config(Path(folder), is_tiny=place.is_tiny, batch_size=_BATCH)
        scorers = load_score_models(config, device=place.device)
        first = _scores(scorers, pictures)
        yield _same("scores made twice", first, _scores(scorers, pictures))
        yield _same("scores in other company", first, np.roll(_scores(scorers, turned), -1, 1))
    encoders = load_encode_models(
        encode_config(is_tiny=place.is_tiny, batch_size=_BATCH), device=place.device
    )

    one = _latents(place, encoders, pictures)
    yield _same("latents made twice", one, _latents(place, encoders, pictures))
    other = np.roll(_latents(place, encoders, turned), -1, 0)
    yield _same("latents in other company", one, other)


def drift(place: Place) -> Iterator[Figure]:
    """What scoring in bf16 changes beside fp32."""
    pictures = drawn_images(place, 4 if place.is_tiny else 64)
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for precision in ("fp32", "bf16"):
            config = score_config(
                Path(folder), is_tiny=place.is_tiny, batch_size=len(pictures), precision=precision
            )
            models = load_score_models(config, device=place.device)
            found.append(_scores(models, pictures))
    for name, one, other in zip(_COLUMNS, *found, strict=True):
        apart = np.abs(one - other)
        yield Figure(name=f"{name} in bf16, at most", value=float(apart.max()), unit="apart")
        yield Figure(name=f"{name} in bf16, mean", value=float(apart.mean()), unit="apart")


def _latents(place: Place, models: EncodeModels, pictures: torch.Tensor) -> np.ndarray:
    transfers = Transfers(place.device)
    size = Bucket(width=place.side_px, height=place.side_px)
    pixels = pixels_for(models, _BATCH, size=size, batch_size=_BATCH, transfers=transfers)
    pixels.copy_(pictures.permute(0, 2, 3, 1))
    inputs = batch_inputs(
        models, pixels, captions=["a caption"] * _BATCH, batch_size=_BATCH, transfers=transfers
    )
    return encode_batch(models, inputs, transfers).take().raw_latents.numpy()


_COLUMNS = ("clip_similarity", "aesthetic_v1")


def _scores(models: ScoreModels, pictures: torch.Tensor) -> np.ndarray:
    """(2, B) of `_COLUMNS`."""
    made = score_images(models, pictures, captions=["a street in the rain"] * len(pictures))
    return np.stack([np.asarray(made[name], np.float64) for name in _COLUMNS])


def _same(name: str, one: np.ndarray, other: np.ndarray) -> Figure:
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
    if apart:
        return Figure(name=f"{name}: NOT the same", value=float(apart), unit="apart at most")
    return Figure(name=f"{name}: the same bytes")
