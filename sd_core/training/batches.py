"""From drawn cache samples to a training batch: every random choice follows from the row's key.

A loader's thread gathers rows with NumPy alone: an operation of torch there would start a second
team of OpenMP threads beside the model's own. The rest is computed where the model is.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from sd_core.cache.dataset import DrawnSample
from sd_core.cache.latent_cache import LatentCache
from sd_core.cache.latents import sample_posterior, scale_latents
from sd_core.cache.spec import AutoencoderIdentity
from sd_core.training.device_noise import draw_normals
from sd_core.training.objectives import ObjectiveConfig
from sd_core.training.task import TaskBatch

_WORTH_A_THREAD = 8192
"""Values of noise a row, below which threads wait longer for each other than they draw."""
_LEAST_LOG_VARIANCE = -30.0


@dataclass(frozen=True, kw_only=True)
class TrainingBatch(TaskBatch):
    """What one step of a rank needs.

    Args:
        latents: (B, C, h, w) float32, scaled.
        noise: (B, C, h, w) float32, offset noise included.
        uniforms: (B,) float32 in [0, 1), from which timesteps are drawn.
        input_ids: (B, L) int64; the empty caption's where the caption is dropped.
        prompt_embeds: (B, L, D) float32, likewise; None where a cache holds token ids alone.
        pooled_prompt_embeds: (B, P) float32, likewise, of a denoiser that goes by them; no cache
            holds them.
        time_ids: (B, 6) float32, XL's: see `Conditioning`.
    """

    latents: Tensor
    noise: Tensor
    uniforms: Tensor
    input_ids: Tensor
    prompt_embeds: Tensor | None
    pooled_prompt_embeds: Tensor | None = None
    time_ids: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class GatheredBatch(TaskBatch):
    """The same as it was read and drawn, which is less to copy than what it becomes.

    Args:
        raw_latents: As stored: (B, C, h, w), or (B, 2C, h, w) where any cache holds moments.
        noise: (B, C, h, w) float32.
        posterior: Likewise, for sampling moments: 0 in rows that have none; None without moments.
        offsets: (B, C, 1, 1) float32; None without offset noise.
        noise_keys: (B, 2) int64 that the device draws these three from, which are None then.
        uniforms, input_ids, time_ids: As they stay.
        prompt_embeds: (B, L, D) as stored, without meaning where the caption is dropped; or None.
        dropped: (N,) int64 places of those rows.
        empty_embeds: (N, L, D) float32, what stands there instead; or None.
        autoencoder: Whose latents they are.
        offset_noise: See `ObjectiveConfig`.
    """

    raw_latents: Tensor
    noise: Tensor | None = None
    posterior: Tensor | None = None
    offsets: Tensor | None = None
    noise_keys: Tensor | None = None
    uniforms: Tensor
    input_ids: Tensor
    prompt_embeds: Tensor | None
    dropped: Tensor
    empty_embeds: Tensor | None
    time_ids: Tensor
    autoencoder: AutoencoderIdentity
    offset_noise: float

    def to(self, device: torch.device) -> TrainingBatch:
        """Copy, sample posteriors, scale once, put the empty caption where captions are dropped."""
        here = cast(GatheredBatch, super().to(device))
        if here.noise_keys is not None:
            here = here._with_drawn_noise(here.noise_keys)
        raw, noise, embeds = here.raw_latents.float(), here.noise, here.prompt_embeds
        if here.posterior is not None:
            raw = sample_posterior(raw, noise=here.posterior)
        if here.offsets is not None and noise is not None:
            noise = noise + here.offset_noise * here.offsets
        embeds = None if embeds is None else embeds.float()
        if embeds is not None and here.empty_embeds is not None:
            embeds.index_copy_(0, here.dropped, here.empty_embeds)
        return TrainingBatch(
            keys=here.keys,
            latents=scale_latents(raw, here.autoencoder),
            noise=cast(Tensor, noise),
            uniforms=here.uniforms,
            input_ids=here.input_ids,
            prompt_embeds=embeds,
            time_ids=here.time_ids,
        )

    def _with_drawn_noise(self, keys: Tensor) -> Self:
        channels, (height, width) = self.autoencoder.latent_channels, self.raw_latents.shape[2:]
        has_moments = self.raw_latents.shape[1] != channels
        shape = (channels, height, width)
        return replace(
            self,
            noise=draw_normals(keys, shape, stream=0),
            posterior=draw_normals(keys, shape, stream=1) if has_moments else None,
            offsets=draw_normals(keys, (channels, 1, 1), stream=2) if self.offset_noise else None,
        )


def row_generator(key: str, *, seed: int, epoch: int, purpose: str = "") -> np.random.Generator:
    """A generator of its own for a row in an epoch, whatever the batch or the rank.

    Counter-based (Philox), so that making one costs nothing; the same numbers on every machine.
    """
    return np.random.Generator(np.random.Philox(key=_row_number(f"{seed}/{epoch}/{key}/{purpose}")))


def _row_number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def collate(
    drawn: Sequence[DrawnSample],
    caches: Sequence[LatentCache],
    *,
    seed: int,
    objective: ObjectiveConfig,
    threads: ThreadPoolExecutor | None = None,
) -> GatheredBatch:
    """Gather rows, draw what is random about them, drop captions.

    Args:
        drawn: What the dataset drew for this rank and step.
        caches: Those the samples come from, in the dataset's order; of one autoencoder.
        seed: The training's.
        objective: Caption dropout, offset noise, and where noise is drawn.
        threads: Draw the rows' noise in these, where it is much; it is the same without.
    """
    room, count = _Room(drawn, caches, seed=seed, objective=objective), len(drawn)
    if threads is None or room.noise is None or room.noise[0].size < _WORTH_A_THREAD:
        room.fill(range(count))
    else:
        list(threads.map(lambda place: room.fill([place]), range(count)))
    return room.batch()


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


class _Room:
    """The arrays of a batch, filled row by row, from several threads where there are any."""

    def __init__(
        self,
        drawn: Sequence[DrawnSample],
        caches: Sequence[LatentCache],
        *,
        seed: int,
        objective: ObjectiveConfig,
    ) -> None:
        self._drawn, self._caches, self._seed, self._objective = drawn, caches, seed, objective
        specs, count = [cache.spec for cache in caches], len(drawn)
        channels = specs[0].identity.autoencoder.latent_channels
        plane = drawn[0].sample.raw_latents.shape[1:]  # all are of one bucket
        dtype = np.result_type(*(one.dtype for one in specs))
        has_moments = any(spec.form == "moments" for spec in specs)
        has_embeds = all(one.sample.prompt_embeds is not None for one in drawn)
        is_drawn_here = objective.noise_device == "cpu"
        length, width = specs[0].embeds_shape

        def room(*shape: int, dtype: Any = np.float32, wanted: bool = True) -> Any:
            return np.empty((count, *shape), dtype) if wanted else None

        self.raw = room(channels * (1 + has_moments), *plane, dtype=dtype)
        self.noise = room(channels, *plane, wanted=is_drawn_here)
        self.posterior = room(channels, *plane, wanted=is_drawn_here and has_moments)
        is_offset = bool(objective.offset_noise)
        self.offsets = room(channels, 1, 1, wanted=is_drawn_here and is_offset)
        self.keys = room(2, dtype=np.int64, wanted=not is_drawn_here)
        self.uniforms, self.is_dropped = room(), room(dtype=np.bool_)
        self.input_ids, self.time_ids = room(length, dtype=np.int64), room(6)
        self.embeds = room(length, width, dtype=dtype, wanted=has_embeds)

    def fill(self, places: Iterable[int]) -> None:
        for place in places:
            one = self._drawn[place]
            rng = row_generator(one.sample.key, seed=self._seed, epoch=one.epoch)
            uniform, dropped = rng.random(2)
            self.uniforms[place] = min(float(np.float32(uniform)), 1 - 2**-24)
            self.is_dropped[place] = dropped < self._objective.caption_dropout
            self._draw(place, rng)
            self._copy(place)

    def _draw(self, place: int, rng: np.random.Generator) -> None:
        """The row's noise; in this order, and all that a cache of its form has had."""
        one = self._drawn[place]
        if self.keys is not None:
            number = _row_number(f"{self._seed}/{one.epoch}/{one.sample.key}/device")
            self.keys[place] = number >> 32 & 0xFFFFFFFF, number & 0xFFFFFFFF
            return
        rng.standard_normal(out=self.noise[place], dtype=np.float32)
        if self._caches[one.cache_index].spec.form == "moments":
            rng.standard_normal(out=self.posterior[place], dtype=np.float32)
        elif self.posterior is not None:
            self.posterior[place] = 0
        if self.offsets is not None:
            rng.standard_normal(out=self.offsets[place], dtype=np.float32)

    def _copy(self, place: int) -> None:
        """What is stored of the row."""
        one = self._drawn[place]
        sample, stored = one.sample, len(one.sample.raw_latents)
        self.raw[place, :stored] = sample.raw_latents
        self.raw[place, stored:] = _LEAST_LOG_VARIANCE
        is_dropped = self.is_dropped[place]
        caption = self._caches[one.cache_index].empty_caption if is_dropped else sample
        self.input_ids[place] = caption.input_ids
        self.time_ids[place] = _time_ids(one, self._caches[one.cache_index])
        if self.embeds is not None and not is_dropped:
            self.embeds[place] = sample.prompt_embeds

    def batch(self) -> GatheredBatch:
        dropped, empty = np.flatnonzero(self.is_dropped), None
        if self.embeds is not None and len(dropped):
            captions = [
                self._caches[self._drawn[k].cache_index].empty_caption for k in dropped.tolist()
            ]
            empty = np.stack([one.prompt_embeds for one in captions])
        arrays = {
            "raw_latents": self.raw,
            "noise": self.noise,
            "posterior": self.posterior,
            "offsets": self.offsets,
            "noise_keys": self.keys,
            "uniforms": self.uniforms,
            "input_ids": self.input_ids,
            "prompt_embeds": self.embeds,
            "dropped": dropped,
            "empty_embeds": empty,
            "time_ids": self.time_ids,
        }
        tensors: dict[str, Any] = {
            name: None if array is None else torch.from_numpy(array)
            for name, array in arrays.items()
        }
        return GatheredBatch(
            keys=tuple(one.sample.key for one in self._drawn),
            autoencoder=self._caches[0].spec.identity.autoencoder,
            offset_noise=self._objective.offset_noise,
            **tensors,
        )
