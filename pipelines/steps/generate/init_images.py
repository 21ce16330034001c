"""The images that rows start from: latents of a curated or generated run, found by key."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.config import ConfigError
from pipelines.steps.generate.config import InitConfig
from pipelines.steps.generate.rows import ImageRow
from sd_core.cache.latent_cache import LatentCache, check_caches, open_cache
from sd_core.cache.latents import mean_latents, scale_latents
from sd_core.cache.reading import open_shard_reader
from sd_core.cache.samples import LatentSample
from sd_core.cache.shard_format import ShardReader
from sd_core.cache.spec import CacheIdentity
from sd_core.errors import FoundryError
from sd_core.sampling.source import mask_of_latents


class InitError(ValueError):
    """A row's source or mask cannot be used; the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class InitImage:
    """What one row starts from.

    Attributes:
        latents: (C, h, w) float32 scaled latents, of moments their mean.
        caption: The cached image's own.
        mask: (H, W, 1) bool, true where the image is made anew; None: everywhere.
        latents_mask: (1, h, w) float, the same at the latents' size.
    """

    latents: Tensor
    caption: str
    strength: float
    mask: Tensor | None = None
    latents_mask: Tensor | None = None


class InitImages:
    """Cached latents by key.

    Args:
        config: Which run.
        identity: The model's, or what is known of it; the cache must share it.

    Raises:
        ConfigError: the run's cache is of another model, or cannot be read.
    """

    def __init__(self, config: InitConfig, identity: CacheIdentity | Mapping[str, Any]) -> None:
        self._config = config
        path = f"{config.path.rstrip('/')}/latents"
        try:
            self._cache: LatentCache = open_cache(path, storage_options=config.storage_options)
            check_caches([self._cache], model_identity=identity)
        except FoundryError as error:
            raise ConfigError(f"generate.init.path: {error}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def result_size(self, key: str) -> tuple[int, int]:
        """Width and height of the cached image, in pixels."""
        if (side := self._cache.spec.resolution_px) is not None:
            return side, side
        _, height, width = self._sample(key).raw_latents.shape
        factor = self._cache.spec.identity.autoencoder.downsampling
        return width * factor, height * factor

    def caption(self, key: str) -> str:
        """The cached image's caption."""
        return self._sample(key).caption

    def read(self, row: ImageRow) -> InitImage:
        """A row's source; its key must be there and its mask readable."""
        assert row.init_key is not None
        sample = self._sample(row.init_key)
        stored = torch.from_numpy(np.asarray(sample.raw_latents, np.float32))
        raw = mean_latents(stored, self._cache.spec)
        mask = self.mask(row)
        downsampling = self._cache.spec.identity.autoencoder.downsampling
        return InitImage(
            latents=scale_latents(raw, self._cache.spec),
            caption=sample.caption,
            strength=row.strength or 0.0,
            mask=None if mask is None else mask.bool()[0, :, :, None],
            latents_mask=None if mask is None else mask_of_latents(mask, downsampling=downsampling),
        )

    def mask(self, row: ImageRow) -> Tensor | None:
        """(1, H, W) float of 0 and 1, or None; raises `InitError`."""
        if row.mask is None:
            return None
        if row.mask.lstrip().startswith("["):
            return _box(row)
        return _picture(row, self._config)

    def close(self) -> None:
        """Close the cache's shards."""
        for reader in self._readers:
            reader.close()

    def _sample(self, key: str) -> LatentSample:
        shard, row = self._places[key]
        return self._readers[shard].read(row)

    @cached_property
    def _readers(self) -> list[ShardReader]:
        return [open_shard_reader(self._cache, shard, check=True) for shard in self._cache.shards]

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, int]]:
        """Each key's shard and row; memory is about 150 bytes a cached image."""
        return {
            key: (number, row)
            for number, reader in enumerate(self._readers)
            for row, key in enumerate(reader.keys)
        }


def _box(row: ImageRow) -> Tensor:
    try:
        left, top, right, bottom = json.loads(str(row.mask))
        mask = torch.zeros(1, row.height, row.width)
        if not (0 <= left < right <= row.width and 0 <= top < bottom <= row.height):
            raise ValueError
        mask[:, int(top) : int(bottom), int(left) : int(right)] = 1
    except (ValueError, TypeError):
        raise InitError(
            "mask_invalid",
            f"mask: found {str(row.mask)[:60]}, a box [left, top, right, bottom] within "
            f"{row.width}x{row.height} is needed",
        ) from None
    return mask


def _picture(row: ImageRow, config: InitConfig) -> Tensor:
    if config.masks is None or ".." in str(row.mask).split("/"):
        raise InitError(
            "mask_invalid", "mask: the name of a file in generate.init.masks, or a box, is needed"
        )
    path = f"{config.masks.rstrip('/')}/{str(row.mask).lstrip('/')}"
    try:
        with fsspec.open(path, "rb", **config.storage_options) as stream:
            content = stream.read()
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (row.width, row.height):
                raise InitError(
                    "mask_invalid",
                    f"mask: {image.size[0]}x{image.size[1]} px, the image is "
                    f"{row.width}x{row.height}",
                )
            values = np.asarray(image.convert("L"), np.float32)
    except (OSError, Image.DecompressionBombError) as error:
        raise InitError("mask_invalid", f"mask: {type(error).__name__}") from error
    return (torch.from_numpy(values) >= 128).float()[None]
