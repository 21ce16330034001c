"""One sample of a latent cache, and the empty caption that every cache holds once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_core.cache.spec import CacheSpec
from sd_core.errors import FoundryError, InputError


class CacheShardError(FoundryError):
    """A cache's shard or empty caption is damaged, or not what its spec says."""


class CacheFolderError(CacheShardError, InputError):
    """A folder that is to be read is not a whole cache, or holds no rows."""


_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class LatentSample:
    """One image's raw latents and its caption, as stored.

    Args:
        key: The row's key, 16 hex digits; the sample's name everywhere.
        raw_latents: (C, h, w), or (2C, h, w) moments, unscaled.
        input_ids: (L,) int32.
        prompt_embeds: (L, D), or None in a cache of token ids alone.
        caption: The text, as it is in the list.
        attributes: Small facts about the row that ride along (JSON).
    """

    key: str
    raw_latents: npt.NDArray[Any]
    input_ids: npt.NDArray[np.int32]
    prompt_embeds: npt.NDArray[Any] | None
    caption: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EmptyCaption:
    """The encoded empty caption, for guidance and for caption dropout at train time.

    Args:
        input_ids: (L,) int32.
        prompt_embeds: (L, D) float32.
        pooled_prompt_embeds: (D,) float32.
    """

    input_ids: npt.NDArray[np.int32]
    prompt_embeds: npt.NDArray[np.float32]
    pooled_prompt_embeds: npt.NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The content of `empty_caption.safetensors`; kept in float32, as it is stored once."""
        from safetensors.numpy import save

        arrays = vars(self).items()
        dtypes = {"input_ids": np.int32}
        return save(
            {n: np.ascontiguousarray(a, dtype=dtypes.get(n, np.float32)) for n, a in arrays}
        )


def read_empty_caption(content: bytes, spec: CacheSpec) -> EmptyCaption:
    """Parse an `empty_caption.safetensors`; raises `CacheShardError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        caption = EmptyCaption(**load(content))
    except (SafetensorError, TypeError) as error:
        raise CacheShardError(f"empty_caption.safetensors cannot be read: {error}") from error
    if caption.prompt_embeds.shape != spec.embeds_shape:
        raise CacheShardError(
            f"empty_caption.safetensors holds embeddings of {caption.prompt_embeds.shape}, the "
            f"spec says {spec.embeds_shape}"
        )
    return caption


def as_stored(sample: LatentSample, spec: CacheSpec) -> LatentSample | None:
    """The sample in the cache's dtype, or None where a value is not finite in it.

    Raises:
        CacheShardError: a shape is not what the spec says.
    """
    raw_latents = _cast(sample.raw_latents, spec)
    prompt_embeds = None if sample.prompt_embeds is None else _cast(sample.prompt_embeds, spec)
    stored = replace(
        sample,
        raw_latents=raw_latents,
        input_ids=np.ascontiguousarray(sample.input_ids, dtype=np.int32),
        prompt_embeds=prompt_embeds if spec.prompt_embeds else None,
    )
    check_shapes(stored, spec)
    finite = np.isfinite(raw_latents).all() and (
        stored.prompt_embeds is None or np.isfinite(stored.prompt_embeds).all()
    )
    return stored if finite else None


class BucketRows:
    """Counts a shard's samples by bucket, which must come in the buckets' order."""

    def __init__(self, spec: CacheSpec) -> None:
        self._shapes = spec.latents_shapes if spec.buckets else ()
        self._counts = [0] * len(self._shapes)

    @property
    def counts(self) -> tuple[int, ...] | None:
        """By bucket; None of a cache of one size."""
        return tuple(self._counts) if self._shapes else None

    def add(self, sample: LatentSample) -> None:
        """Count a checked sample; raises `CacheShardError` where it is not its turn."""
        if not self._shapes:
            return
        bucket = self._shapes.index(sample.raw_latents.shape)
        if any(self._counts[bucket + 1 :]):
            raise CacheShardError(f"{sample.key}: a shard's samples lie bucket by bucket")
        self._counts[bucket] += 1


def check_shapes(sample: LatentSample, spec: CacheSpec) -> None:
    """Check a stored sample against the spec; raises `CacheShardError` naming key and field."""
    embeds = sample.prompt_embeds
    if spec.prompt_embeds and embeds is None:
        raise CacheShardError(f"{sample.key}: the spec asks for prompt_embeds, it has none")
    found: dict[str, tuple[npt.NDArray[Any], _Shapes, str]] = {
        "latents": (sample.raw_latents, spec.latents_shapes, spec.dtype),
        "input_ids": (sample.input_ids, (spec.embeds_shape[:1],), "int32"),
    }
    if embeds is not None:
        found["prompt_embeds"] = (embeds, (spec.embeds_shape,), spec.dtype)
    for name, (array, shapes, dtype) in found.items():
        if array.shape not in shapes or array.dtype != dtype:
            raise CacheShardError(
                f"{sample.key}: {name} is {array.dtype} {array.shape}, the spec says "
                f"{dtype} {' or '.join(map(str, shapes))}"
            )


def attributes_json(sample: LatentSample) -> bytes:
    """The sample's attributes with its key, as one line of JSON."""
    tree = {"key": sample.key, **sample.attributes}
    return json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()


def _cast(array: npt.NDArray[Any], spec: CacheSpec) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # an overflow is found as infinite, and reported
        return np.ascontiguousarray(array, dtype=spec.dtype)
