"""From drawn cache samples to a training batch: every random choice follows from the row's key."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sd_core.cache.dataset import DrawnSample
from sd_core.cache.latents import sample_posterior, scale_latents
from sd_core.cache.latent_cache import LatentCache
from sd_core.training.objectives import ObjectiveConfig


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """What one step of a rank needs.

    Args:
        keys: The rows, for error messages.
        latents: (B, C, h, w) float32, scaled.
        noise: (B, C, h, w) float32, offset noise included.
        uniforms: (B,) float32 in [0, 1), from which timesteps are drawn.
        input_ids: (B, L) int64; the empty caption's where the caption is dropped.
        prompt_embeds: (B, L, D) float32, likewise; None where a cache holds token ids alone.
    """

    keys: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    uniforms: Tensor
    input_ids: Tensor
    prompt_embeds: Tensor | None

    def to(self, device: torch.device) -> "TrainingBatch":
        """The batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def part(self, start: int, end: int) -> "TrainingBatch":
        """Samples start..end."""
        sliced: dict[str, Any] = {
            name: value[start:end] for name, value in vars(self).items() if value is not None
        }
        return replace(self, **sliced)


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
) -> TrainingBatch:
    """Sample posteriors, scale once, draw noise, drop captions.

    Args:
        drawn: What the dataset drew for this rank and step.
        caches: Those the samples come from, in the dataset's order.
        seed: The training's.
        objective: Caption dropout and offset noise.
    """
    rows = [_draw_row(one, caches[one.cache_index], seed, objective) for one in drawn]
    embeds = [row.prompt_embeds for row in rows]
    return TrainingBatch(
        keys=tuple(one.sample.key for one in drawn),
        latents=torch.stack([row.latents for row in rows]),
        noise=torch.stack([row.noise for row in rows]),
        uniforms=torch.tensor([row.uniform for row in rows], dtype=torch.float32),
        input_ids=torch.stack([row.input_ids for row in rows]),
        prompt_embeds=None
        if any(one is None for one in embeds)
        else torch.stack([one for one in embeds if one is not None]),
    )


@dataclass(frozen=True, kw_only=True)
class _Row:
    latents: Tensor
    noise: Tensor
    uniform: float
    input_ids: Tensor
    prompt_embeds: Tensor | None


def _draw_row(
    drawn: DrawnSample, cache: LatentCache, seed: int, objective: ObjectiveConfig
) -> _Row:
    sample, spec = drawn.sample, cache.spec
    rng = row_generator(sample.key, seed=seed, epoch=drawn.epoch)
    uniform, dropped = rng.random(2)
    raw = torch.from_numpy(sample.raw_latents.astype(np.float32))
    shape = (spec.identity.autoencoder.latent_channels, *raw.shape[-2:])
    noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
    if spec.form == "moments":
        posterior = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        raw = sample_posterior(raw, noise=posterior)
    if objective.offset_noise:
        offset = rng.standard_normal((shape[0], 1, 1), dtype=np.float32)
        noise = noise + objective.offset_noise * torch.from_numpy(offset)
    caption: Any = cache.empty_caption if dropped < objective.caption_dropout else sample
    embeds = None if sample.prompt_embeds is None else caption.prompt_embeds.astype(np.float32)
    return _Row(
        latents=scale_latents(raw, spec),
        noise=noise,
        uniform=min(float(np.float32(uniform)), 1 - 2**-24),
        input_ids=torch.from_numpy(caption.input_ids.astype(np.int64)),
        prompt_embeds=None if embeds is None else torch.from_numpy(embeds),
    )
