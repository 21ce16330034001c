"""JPEG through libjpeg-turbo: scaled decoding, and errors told apart."""

from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.stages.download.header import ImageHeader
from pipelines.stages.download.image_rejected import ImageRejected

# Inverse transforms of 8, 4, 2, 1 samples a block. The other scales libjpeg offers are slower
# than decoding whole.
_DENOMINATORS = (8, 4, 2)

# libjpeg's warnings that cost no pixel: stray bytes before a marker, odd or broken APP segments,
# scans in an unusual order.
_HARMLESS = (
    "extraneous bytes",
    "bad ICC marker",
    "Adobe color transform",
    "JFIF major revision",
    "Inconsistent progression",
    "Invalid SOS parameters",
)


class NotForFastPath(Exception):
    """The file may be fine, but this decoder cannot vouch for it: ask the thorough one."""


@dataclass(frozen=True, kw_only=True)
class DecodedJpeg:
    """Pixels of a JPEG at 1/denominator of its size (rounded up)."""

    image: NDArray[np.uint8]  # [height, width, 3] RGB, or [height, width, 1] grey
    denominator: int


def scale_denominator(shorter_side: int, size: int) -> int:
    """The strongest reduction at which the shorter side still covers `size` pixels."""
    return next((d for d in _DENOMINATORS if shorter_side >= d * size), 1)


def decode_jpeg(data: bytes, header: ImageHeader, *, size: int) -> DecodedJpeg:
    """Decodes a grey or three-channel JPEG, at the least scale that still covers `size`.

    Raises:
        ImageRejected: `image_truncated` or `image_unreadable`.
        NotForFastPath: four channels, 12 bits, or a harmless warning.
    """
    if header.channels not in (1, 3) or header.bit_depth != 8:
        raise NotForFastPath
    denominator = scale_denominator(min(header.width, header.height), size)
    try:
        image = simplejpeg.decode_jpeg(
            data,
            "GRAY" if header.channels == 1 else "RGB",
            min_height=-(-header.height // denominator),
            min_width=-(-header.width // denominator),
        )
    except ValueError as error:
        raise _judged(str(error)) from error
    expected = (-(-header.height // denominator), -(-header.width // denominator))
    if image.shape[:2] != expected:
        raise NotForFastPath
    return DecodedJpeg(image=image, denominator=denominator)


def encode_jpeg(image: NDArray[np.uint8], *, quality: int, subsampling: str) -> bytes:
    """Encodes [height, width, 3] RGB as JFIF, with nothing but the pixels in it."""
    encoded: bytes = simplejpeg.encode_jpeg(
        image, quality, "RGB", subsampling.replace(":", ""), fastdct=False
    )
    return encoded


def _judged(warning: str) -> Exception:
    if any(text in warning for text in _HARMLESS):
        return NotForFastPath()
    if "Premature end of JPEG" in warning or "premature end of data" in warning:
        return ImageRejected("image_truncated", "the JPEG data ends before the last pixel")
    if "Corrupt JPEG data" in warning:
        return ImageRejected("image_unreadable", "the JPEG data is corrupt")
    if "memory" in warning.lower():
        return MemoryError()
    return NotForFastPath()
