"""Aspect buckets: which width and height a picture is cropped to.

Source: Podell et al. 2023 (SDXL), section 2.3 and appendix I, arXiv:2307.01952.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

from pydantic import Field, model_validator

from sd_core.model.config import ModelConfig

BucketPreset = Literal["sd3", "sdxl"]

_MOST_PX: Final = 4096
_MOST_BUCKETS: Final = 256
# Widths by height of the taller half of appendix I's table, which its other half mirrors.
_SDXL: Final = {
    2048: (512,), 1984: (512,), 1920: (512,), 1856: (512,),
    1792: (576,), 1728: (576,), 1664: (576,),
    1600: (640,), 1536: (640,),
    1472: (704,), 1408: (704,), 1344: (704, 768),
    1280: (768,),
    1216: (832,), 1152: (832, 896),
    1088: (896, 960),
    1024: (960, 1024),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, order=True)
class Bucket:
    """One size, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class BucketCrop:
    """How a picture becomes one of a bucket: resized to cover it, then cut at the centre.

    Args:
        index: The bucket's number in the list.
        bucket: Its size.
        box: (left, top, width, height) of what is kept, in the original's pixels, float.
        enlargement: Factor from original to stored pixels; above 1 the picture grows.
        kept: Share of the original's area that is kept.
    """

    index: int
    bucket: Bucket
    box: tuple[float, float, float, float]
    enlargement: float
    kept: float


class BucketsConfig(ModelConfig):
    """Sizes that pictures are cropped to, each to the one of its nearest aspect."""

    preset: BucketPreset | None = None
    """`sdxl`: the table of its paper; `sd3`: a million pixels in steps of 64."""
    pixels: int | None = Field(default=None, ge=64 * 64, le=4096 * 4096)
    """Area that no bucket exceeds. Unit: pixels."""
    step: int = Field(default=64, ge=8, le=512)
    """Widths and heights are multiples of it: of the autoencoder's down-sampling times the
    denoiser's patch. Unit: pixels."""
    aspect: float = Field(default=2.0, ge=1.0, le=16.0)
    """The longer side is at most this many times the shorter."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Further buckets, as [width, height]. Unit: pixels."""
    max_enlarge: float = Field(default=1.25, ge=1.0, le=8.0)
    """A picture that would grow by more is dropped (`too_small_for_bucket`). Unit: factor."""

    @model_validator(mode="after")
    def _check(self) -> "BucketsConfig":
        if self.preset is not None and self.pixels is not None:
            raise ValueError("set one of preset and pixels")
        if self.preset is None and self.pixels is None and not self.sizes:
            raise ValueError("set preset, pixels or sizes: there is no bucket")
        wrong = [list(size) for size in self.sizes if any(side < 1 for side in size)]
        wrong += [list(size) for size in self.sizes if any(side % self.step for side in size)]
        if wrong:
            raise ValueError(f"sizes {wrong}: no positive multiples of step, {self.step}")
        if large := [list(size) for size in self.sizes if max(size) > _MOST_PX]:
            raise ValueError(f"sizes {large}: sides of at most {_MOST_PX} pixels are stored")
        if not 1 <= len(found := _buckets_of(self)) <= _MOST_BUCKETS:
            raise ValueError(
                f"{len(found)} buckets; 1 to {_MOST_BUCKETS} are allowed: take another step, or "
                "more or less of pixels and aspect"
            )
        return self

    def buckets(self) -> tuple[Bucket, ...]:
        """All buckets, from the narrowest aspect to the widest."""
        return _buckets_of(self)


def sort_buckets(buckets: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """In order of aspect, of one aspect in order of size."""
    return tuple(
        sorted(set(buckets), key=lambda size: (Fraction(size.width, size.height), size.width))
    )


def bucket_of(width: int, height: int, buckets: Sequence[Bucket]) -> BucketCrop:
    """The bucket of the nearest log aspect, ties to the lower number, and the crop to it.

    Nearest in this sense cuts least away: where aspects stand as r to 1, min(r, 1/r) is kept.

    Args:
        width, height: Of the picture, in pixels.
        buckets: At least one.
    """
    index = _nearest(width, height, buckets)
    bucket = buckets[index]
    enlargement = max(bucket.width / width, bucket.height / height)
    crop_width, crop_height = bucket.width / enlargement, bucket.height / enlargement
    return BucketCrop(
        index=index,
        bucket=bucket,
        box=((width - crop_width) / 2, (height - crop_height) / 2, crop_width, crop_height),
        enlargement=enlargement,
        kept=crop_width * crop_height / (width * height),
    )


@lru_cache
def _buckets_of(config: BucketsConfig) -> tuple[Bucket, ...]:
    if config.preset == "sdxl":
        found = {(w, h) for h, widths in _SDXL.items() for w in widths}
    elif config.pixels is not None or config.preset == "sd3":
        found = _sizes_within(config.pixels or 1024 * 1024, step=config.step, aspect=config.aspect)
    else:
        found = set()
    found |= {(h, w) for w, h in found}
    found |= set(config.sizes)
    return sort_buckets([Bucket(width=w, height=h) for w, h in found])


def _nearest(width: int, height: int, buckets: Sequence[Bucket]) -> int:
    """By exp |log aspect - log the bucket's aspect|, a fraction of whole numbers that are compared
    as such: the same on every machine."""
    best, over, under = 0, 0, 0
    for number, bucket in enumerate(buckets):
        ours, its = width * bucket.height, height * bucket.width
        more, less = (ours, its) if ours > its else (its, ours)
        if not number or more * under < over * less:
            best, over, under = number, more, less
    return best


def _sizes_within(pixels: int, *, step: int, aspect: float) -> set[tuple[int, int]]:
    """For each width the greatest height within the area and the aspect's bound."""
    sizes = set[tuple[int, int]]()
    for width in range(step, math.isqrt(int(pixels * aspect)) + 1, step):
        height = pixels // width // step * step
        if height and max(width, height) <= aspect * min(width, height):
            sizes.add((width, height))
    return sizes
