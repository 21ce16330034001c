"""What is measured on the pixels of a stored image before they become a file.

Sums are of whole numbers, so that neither a processor's vector width nor the order of summation
reaches the last bit.
"""

from dataclasses import dataclass, fields
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from sd_core.model.config import ModelConfig

_HASH_SIDE = 8
_MOST_IN_INT32 = (2**31 - 1) // 255  # pixels
_LEVELS = np.arange(256, dtype=np.float64)

Grey = npt.NDArray[np.uint8]


class ImageFactsConfig(ModelConfig):
    """Which facts of a stored image are measured; one that is off is null in every row."""

    phash: bool = True
    """Perceptual hash, by which near-duplicates are found."""
    sharpness: bool = True
    """Variance of the Laplacian."""
    entropy: bool = True
    """Of the brightness, in bits."""
    contrast: bool = True
    """Standard deviation of the brightness."""

    def identity(self) -> dict[str, list[str]]:
        """The facts that are on; empty without any, so that a run made before there were facts
        goes on with all of them off."""
        names = [name for name, is_on in self.model_dump().items() if is_on]
        return {"facts": names} if names else {}


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts of one stored image; the fields are columns of the facts table."""

    phash: str | None = None
    """`perceptual_hash`, 16 hex digits."""
    sharpness: float | None = None
    """Variance of the 3 x 3 Laplacian of the brightness; blurred pictures have little."""
    entropy: float | None = None
    """Shannon entropy of the brightness's histogram: 0 (flat) to 8 bits."""
    contrast: float | None = None
    """Standard deviation of the brightness, 0 to 127.5."""


NOT_MEASURED: Final = ImageFacts()
IMAGE_FACTS: Final = tuple(field.name for field in fields(ImageFacts))


def measure_image(pixels: npt.NDArray[np.uint8], config: ImageFactsConfig) -> ImageFacts:
    """Measures what is asked for of [height, width, 3] RGB."""
    if not config.identity():
        return ImageFacts()
    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    shares = _shares(grey) if config.entropy or config.contrast else np.empty(0)
    return ImageFacts(
        phash=perceptual_hash(grey) if config.phash else None,
        sharpness=_sharpness(grey) if config.sharpness else None,
        entropy=_entropy(shares) if config.entropy else None,
        contrast=_contrast(shares) if config.contrast else None,
    )


def perceptual_hash(grey: Grey) -> str:
    """A difference hash of 64 bits, half across and half down, as 16 hex digits.

    The picture is averaged into 4 rows of 9 cells, where a bit is 1 if a cell is brighter than its
    left neighbour, and into 9 rows of 4, where it is 1 if a cell is brighter than the one above;
    rows first. Cells of a flat or mirrored picture tie exactly, and a tie is 0.

    Args:
        grey: [height, width].

    Source: Krawetz 2013, "Kind of Like That" (dHash), with both directions. A hash of the lowest
    frequencies (pHash) tells drawn pictures apart less well: see `python -m jobs.bench planted`.
    """
    wide = _cells(grey, rows=_HASH_SIDE // 2, columns=_HASH_SIDE + 1)
    tall = _cells(grey, rows=_HASH_SIDE + 1, columns=_HASH_SIDE // 2)
    across, down = wide[:, 1:] > wide[:, :-1], tall[1:] > tall[:-1]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).tobytes().hex()


def _cells(grey: Grey, *, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Means of a grid of cells whose edges are whole pixels."""
    height, width = grey.shape
    if height < rows or width < columns:
        grey = np.repeat(np.repeat(grey, rows, axis=0), columns, axis=1)
        height, width = grey.shape
    sums = cv2.integral(grey, sdepth=cv2.CV_32S if grey.size <= _MOST_IN_INT32 else cv2.CV_64F)
    top = np.arange(rows + 1) * height // rows
    left = np.arange(columns + 1) * width // columns
    corners = np.asarray(sums)[np.ix_(top, left)]
    totals = np.diff(np.diff(corners.astype(np.float64), axis=0), axis=1)
    means: npt.NDArray[np.float64] = totals / np.outer(np.diff(top), np.diff(left))
    return means


def _sharpness(grey: Grey) -> float:
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0] ** 2)


def _shares(grey: Grey) -> npt.NDArray[np.float64]:
    """How much of the picture has each of the 256 levels of brightness."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256])  # a quarter of numpy's time
    return np.asarray(counts, np.float64)[:, 0] / grey.size


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    found = shares[shares > 0]
    return float(max(0.0, -np.sum(found * np.log2(found))))


def _contrast(shares: npt.NDArray[np.float64]) -> float:
    mean = np.sum(shares * _LEVELS)
    return float(np.sqrt(np.sum(shares * (_LEVELS - mean) ** 2)))
