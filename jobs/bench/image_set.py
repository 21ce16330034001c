"""JPEGs to download: real widths, heights and byte sizes, filled with real photographs."""

import hashlib
import json
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIZES_FILE = "laion_aesthetics_image_sizes.json"
_MIN_SIDE_PX = 16
_MAX_ASPECT = 3.0  # our own default limit; img2dataset would take the few that are longer
_LOWEST_QUALITY, _HIGHEST_QUALITY = 10, 100
_RECIPE = 2  # raise it when the pictures change, so that old caches are not used


@dataclass(frozen=True, kw_only=True)
class RealSize:
    """One image of the list as it was measured; sides in pixels."""

    width: int
    height: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class BenchImages:
    """A folder of JPEGs, `names` in the order of the list.

    `real_bytes` is what the images of these sizes had, `num_bytes` what ours have.
    """

    folder: Path
    names: tuple[str, ...]
    num_bytes: int
    real_bytes: int
    median_short_side_px: int


def read_real_sizes(metadata: Path, *, min_side_px: int = _MIN_SIDE_PX) -> list[RealSize]:
    """Sizes of the list's images whose shorter side is at least this; aspect at most 3.

    Raises:
        FileNotFoundError: no such list in the folder `metadata`.
    """
    rows = json.loads((metadata / SIZES_FILE).read_text())
    sizes = [
        RealSize(width=row["width"], height=row["height"], num_bytes=row["file_size"])
        for row in rows
    ]
    lowest = max(min_side_px, _MIN_SIDE_PX)
    return [
        size
        for size in sizes
        if min(size.width, size.height) >= lowest
        and max(size.width, size.height) <= _MAX_ASPECT * min(size.width, size.height)
    ]


def make_image_set(
    cache: Path, *, sizes: Sequence[RealSize], photos: Path, num_images: int, seed: int = 0
) -> BenchImages:
    """Draw `num_images` sizes (with repetition only where there are too few) and make the files.

    What is in the cache already is not made again; a larger set begins with the smaller one.

    Raises:
        FileNotFoundError: no photographs in the folder `photos`.
    """
    files = sorted(photos.glob("*.jpg"))
    if not files:
        raise FileNotFoundError(f"no .jpg photographs in {photos}; give another --photos")
    rounds = [
        random.Random(seed + turn).sample(list(sizes), len(sizes))
        for turn in range(-(-num_images // len(sizes)))
    ]
    drawn = [size for one in rounds for size in one][:num_images]
    facts = [_RECIPE, seed, [vars(size) for size in sizes], [file.name for file in files]]
    folder = cache / f"jpegs-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"{number:05d}.jpg" for number in range(num_images))
    missing = [
        (folder / name, size, files, number)
        for number, (name, size) in enumerate(zip(names, drawn, strict=True))
        if not (folder / name).exists()
    ]
    if missing:
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            list(pool.map(_make_file, *zip(*missing, strict=True), chunksize=8))
    sides = [min(size.width, size.height) for size in drawn]
    return BenchImages(
        folder=folder,
        names=names,
        num_bytes=sum((folder / name).stat().st_size for name in names),
        real_bytes=sum(size.num_bytes for size in drawn),
        median_short_side_px=int(np.median(sides)),
    )


def _make_file(path: Path, size: RealSize, photos: list[Path], number: int) -> None:
    cv2.setNumThreads(1)
    pixels = _cover(_read_photo(photos[number % len(photos)]), size.width, size.height)
    part = path.with_suffix(".part")
    part.write_bytes(_encode_near(pixels, num_bytes=size.num_bytes))
    part.replace(path)


@lru_cache(maxsize=32)
def _read_photo(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR), np.uint8)


def _cover(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The photograph's middle, of the asked shape, resized to it."""
    scale = max(width / photo.shape[1], height / photo.shape[0])
    part_width = min(photo.shape[1], max(1, round(width / scale)))
    part_height = min(photo.shape[0], max(1, round(height / scale)))
    left, top = (photo.shape[1] - part_width) // 2, (photo.shape[0] - part_height) // 2
    part = photo[top : top + part_height, left : left + part_width]
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=kind), np.uint8)


def _encode_near(pixels: NDArray[np.uint8], *, num_bytes: int) -> bytes:
    """The JPEG of the highest quality that does not exceed the size; bisected."""
    low, high = _LOWEST_QUALITY, _HIGHEST_QUALITY
    best = _encode(pixels, low)
    while low < high:
        middle = (low + high + 1) // 2
        encoded = _encode(pixels, middle)
        if len(encoded) <= num_bytes:
            low, best = middle, encoded
        else:
            high = middle - 1
    return best


def _encode(pixels: NDArray[np.uint8], quality: int) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
