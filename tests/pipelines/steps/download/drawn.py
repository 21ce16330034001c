"""Small pictures with known pixels, and files that hold them."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (20, 40, 210), (230, 220, 40)


def quarters(width: int, height: int) -> NDArray[np.uint8]:
    """[height, width, 3]: red top left, green top right, blue bottom left, yellow bottom right."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = YELLOW
    return image


def corner_colours(pixels: NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """The colours in the middle of the four quarters: top left, top right, bottom left, right."""
    low, high = len(pixels) // 4, 3 * len(pixels) // 4
    points = [(low, low), (low, high), (high, low), (high, high)]
    return [tuple(int(v) for v in pixels[y, x]) for y, x in points]


def near(found: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]], by: int = 6) -> bool:
    """Whether two lists of colours agree to within `by` in every channel."""
    return bool(np.abs(np.array(found, int) - np.array(wanted, int)).max() <= by)


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    """The file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def png_of_nothing(width: int, height: int, *, colour_type: int = 2) -> bytes:
    """A valid PNG that decodes to black: a bomb when the size is large."""
    channels = {0: 1, 2: 3, 6: 4}[colour_type]
    row = bytes(1 + width * channels)
    squeeze = zlib.compressobj(9)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def noise(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """[side, side, 3] of soft noise: hard to compress, like a photograph's grain."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, 256, (side // 2, side // 2, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(grain, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
