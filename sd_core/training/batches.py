"""From drawn cache samples to a training batch: every random choice follows from the row's key."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sd_core.cache.dataset import DrawnSample
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.latents import sample_posterior, scale_latents
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.task import TaskBatch


@dataclass(frozen=True, kw_only=True)
class TrainingBatch(TaskBatch):
    """What one step of a rank needs.

    Args:
        latents: (B, C, h, w) float32, scaled.
        noise: (B, C, h, w) float32, offset noise included.
        uniforms: (B,) float32 in [0, 1), from which timesteps are drawn.
        input_ids: (B, L) int64; the empty caption's where the caption is dropped.
        prompt_embeds: (B, L, D) float32, likewise; None where a cache holds token ids alone.
        pooled_prompt_embeds: (B, P) float32, likewise, of a denoiser that goes by them; no cache of
            version 1 holds them.
        time_ids: (B, 6) float32, XL's: see `Conditioning`.
    """

    latents: Tensor
    noise: Tensor
    uniforms: Tensor
    input_ids: Tensor
    prompt_embeds: Tensor | None
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None


def row_generator(key: str, *, seed: int, epoch: int, purpose: str = "") -> np.random.Generator:
    """A generator of its own for a row in an epoch, whatever the batch or the rank.

    Counter-based (Philox), so that making one costs nothing; the same numbers on every machine.
    """
    name = f"{seed}/{epoch}/{key}/{purpose}".encode()
    digest = hashlib.blake2b(name, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def collate(
    drawn: Sequence[DrawnSample],
    caches: Sequence[LatentCache],
    *,
    seed: int,
    objective: ObjectiveConfig,
    threads: ThreadPoolExecutor | None = None,
) -> TrainingBatch:
    """Sample posteriors, scale once, draw noise, drop captions.

    Args:
        drawn: What the dataset drew for this rank and step.
        caches: Those the samples come from, in the dataset's order.
        seed: The training's.
        objective: Caption dropout and offset noise.
        threads: Draw the rows' noise in these; it is the same without.
    """
    spread = threads.map if threads else map
    draws = list(spread(lambda one: _draw(one, caches, seed, objective), drawn))
    latents = [_scaled_latents(part, draws, caches) for part in _by_cache(drawn, caches)]
    order = [place for part in _by_cache(drawn, caches) for place, _ in part]
    noise = torch.from_numpy(np.stack([one.noise for one in draws]))
    if objective.offset_noise:
        noise += objective.offset_noise * torch.from_numpy(np.stack([d.offset for d in draws]))
    captions = [
        caches[one.cache_index].empty_caption if draw.is_dropped else one.sample
        for one, draw in zip(drawn, draws, strict=True)
    ]
    has_embeds = all(one.sample.prompt_embeds is not None for one in drawn)
    embeds = [caption.prompt_embeds.astype(np.float32) for caption in captions if has_embeds]  # type: ignore[union-attr]
    return TrainingBatch(
        keys=tuple(one.sample.key for one in drawn),
        latents=torch.cat(latents)[torch.argsort(torch.tensor(order))],
        noise=noise,
        uniforms=torch.tensor([one.uniform for one in draws], dtype=torch.float32),
        input_ids=torch.from_numpy(np.stack([one.input_ids for one in captions]).astype(np.int64)),
        prompt_embeds=torch.from_numpy(np.stack(embeds)) if has_embeds else None,
        time_ids=torch.tensor([_time_ids(one, caches[one.cache_index]) for one in drawn]),
    )


def _time_ids(drawn: DrawnSample, cache: LatentCache) -> list[float]:
    """Original height and width, top and left of the crop after resizing, and the size that it
    was cropped to, as Podell et al. 2023, section 2.2, condition on; of the cache's columns."""
    attributes, factor = drawn.sample.attributes, cache.spec.identity.autoencoder.downsampling
    crop = [side * factor for side in drawn.sample.raw_latents.shape[1:]]
    original = [
        float(attributes.get(f"original_{name}") or attributes.get(name) or side)
        for name, side in zip(("height", "width"), crop, strict=True)
    ]
    scale = max(side / length for side, length in zip(crop, original, strict=True))
    corner = [
        (round(length * scale) - side) // 2 for side, length in zip(crop, original, strict=True)
    ]
    return [float(number) for number in (*original, *corner, *crop)]


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """A row's random choices; arrays are (C, h, w) float32."""

    uniform: float
    is_dropped: bool
    noise: npt.NDArray[np.float32]
    posterior: npt.NDArray[np.float32] | None
    offset: npt.NDArray[np.float32]


def _draw(
    drawn: DrawnSample, caches: Sequence[LatentCache], seed: int, objective: ObjectiveConfig
) -> _Draw:
    spec = caches[drawn.cache_index].spec
    shape = (spec.identity.autoencoder.latent_channels, *drawn.sample.raw_latents.shape[1:])
    rng = row_generator(drawn.sample.key, seed=seed, epoch=drawn.epoch)
    uniform, dropped = rng.random(2)
    return _Draw(
        uniform=min(float(np.float32(uniform)), 1 - 2**-24),
        is_dropped=bool(dropped < objective.caption_dropout),
        noise=rng.standard_normal(shape, dtype=np.float32),
        posterior=rng.standard_normal(shape, dtype=np.float32) if spec.form == "moments" else None,
        offset=rng.standard_normal((shape[0], 1, 1), dtype=np.float32),
    )


_Part = list[tuple[int, DrawnSample]]


def _by_cache(drawn: Sequence[DrawnSample], caches: Sequence[LatentCache]) -> list[_Part]:
    """The samples of each cache, with their places in the batch."""
    parts: list[_Part] = [[] for _ in caches]
    for place, one in enumerate(drawn):
        parts[one.cache_index].append((place, one))
    return [part for part in parts if part]


def _scaled_latents(part: _Part, draws: Sequence[_Draw], caches: Sequence[LatentCache]) -> Tensor:
    """Scaled latents of samples of one cache."""
    spec = caches[part[0][1].cache_index].spec
    raw = torch.from_numpy(np.stack([one.sample.raw_latents for _, one in part])).float()
    if spec.form == "moments":
        posteriors = [draws[place].posterior for place, _ in part]
        noise = torch.from_numpy(np.stack([one for one in posteriors if one is not None]))
        raw = sample_posterior(raw, noise=noise)
    return scale_latents(raw, spec)
