"""JPEG through libjpeg-turbo: scaled decoding, and errors told apart."""

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


def scale_denominator(shorter_side: int, size: int) -> int:
    """The strongest reduction at which the shorter side still covers `size` pixels."""
    return next((d for d in _DENOMINATORS if shorter_side >= d * size), 1)


def decode_jpeg(data: bytes, header: ImageHeader, *, denominator: int) -> NDArray[np.uint8]:
    """Decodes a grey or three-channel JPEG at 1/denominator of its size (1, 2, 4 or 8).

    Returns:
        [height, width, 3] RGB or [height, width, 1] grey; sides divided and rounded up.

    Raises:
        ImageRejected: `image_truncated` or `image_unreadable`.
        NotForFastPath: four channels, 12 bits, or a harmless warning.
    """
    if header.channels not in (1, 3) or header.bit_depth != 8:
        raise NotForFastPath
    height, width = -(-header.height // denominator), -(-header.width // denominator)
    colour = "GRAY" if header.channels == 1 else "RGB"
    try:
        image = simplejpeg.decode_jpeg(data, colour, min_height=height, min_width=width)
    except ValueError as error:
        raise _judged(str(error)) from error
    if image.shape[:2] != (height, width):
        raise NotForFastPath
    return np.asarray(image, np.uint8)


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
