"""What is measured on the pixels of a stored square before they are encoded.

Everything is summed in whole numbers, so that neither a processor's vector width nor the order of
summation reaches the last bit.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict

_HASH_SIDE = 8
_DCT_SIDE = 32
_REDUCING_GAP = 2.0  # means over whole pixels down to twice _DCT_SIDE: a sixth of the time
_COSINE_UNIT = 1 << 21  # two passes over 32 pixels of 8 bits, doubled, stay below 2^63


class CropFactsConfig(BaseModel):
    """Which facts of the stored square are measured; one that is off is null in every row."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    phash: bool = True
    """Perceptual hash, by which near-duplicates are found."""


@dataclass(frozen=True, kw_only=True)
class CropFacts:
    """Facts of one stored square; the fields are columns of the facts table."""

    phash: str | None = None
    """`perceptual_hash`, 16 hex digits."""


def measure_crop(pixels: NDArray[np.uint8], config: CropFactsConfig) -> CropFacts:
    """Measures what is asked for of [size, size, 3] RGB."""
    if not config.phash:
        return CropFacts()
    luminance = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    return CropFacts(phash=perceptual_hash(luminance))


def perceptual_hash(luminance: NDArray[np.uint8]) -> str:
    """The DCT hash of the `imagehash` package (`phash`, hash_size 8), as its 16 hex digits.

    The picture is shrunk to 32 x 32 (Lanczos) and transformed by an unnormalised DCT-II; of the
    lowest 8 x 8 coefficients, rows first, a bit is 1 where one is above their median. Two things
    differ from imagehash, both by at most a few bits of a picture: pixels are averaged to about
    64 x 64 before the Lanczos (Pillow's `reducing_gap`), and coefficients that tie, as in flat or
    symmetric pictures, tie exactly here instead of by the noise of floating point.

    Args:
        luminance: [height, width], uint8.

    Source: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions".
    """
    small = Image.fromarray(luminance).resize(
        (_DCT_SIDE, _DCT_SIDE), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP
    )
    cosines = _cosines()
    low = cosines @ np.asarray(small, np.int64) @ cosines.T
    middle = np.sort(low, axis=None)[_HASH_SIDE**2 // 2 - 1 :][:2].sum()
    return np.packbits(2 * low > middle).tobytes().hex()


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.int64]:
    """[8, 32]: the first rows of the DCT-II, in whole multiples of 1 / `_COSINE_UNIT`."""
    angles = np.outer(np.arange(_HASH_SIDE), 2 * np.arange(_DCT_SIDE) + 1) * np.pi
    return np.rint(np.cos(angles / (2 * _DCT_SIDE)) * _COSINE_UNIT).astype(np.int64)
