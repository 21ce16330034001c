"""JPEG through libjpeg-turbo: scaled decoding, and errors told apart."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipelines.steps.download.geometry import centre_window
from pipelines.steps.download.header import ImageHeader
from pipelines.steps.download.image_rejected import ImageRejected
from sd_core.model.buckets import Bucket

# Inverse transforms of 8, 4, 2, 1 samples a block. The other scales libjpeg offers are slower
# than decoding whole.
_DENOMINATORS = (8, 4, 2)

# Baseline, extended and progressive frames of Huffman codes: what libjpeg is known by. Others are
# decoded at full size only: asked for a lossless one at 1/8, TurboJPEG 3.1.3 and before write all
# of it into a buffer of 1/64 (mended in 3.1.4).
_SCALED_FRAMES = (0, 1, 2)
_LOSSLESS_FRAME = 3
_DECODED_FRAMES = (*_SCALED_FRAMES, _LOSSLESS_FRAME, 9, 10)  # SOF9 and SOF10: arithmetic codes

# libjpeg's warnings that cost no pixel: odd or broken APP segments, and in plain frames stray bytes
# before a marker and scans in an unusual order. Arithmetic codes read any bytes at all, so that
# bytes left over are the one sign of their corruption.
_HARMLESS = ("bad ICC marker", "Adobe color transform", "JFIF major revision")
_HARMLESS_IN_PLAIN = ("extraneous bytes", "Inconsistent progression", "Invalid SOS parameters")


class NotForFastPath(Exception):
    """The file may be fine, but this decoder cannot vouch for it: ask the thorough one."""


def check_frame(header: ImageHeader) -> None:
    """Refuses what no decoder of ours knows, before one is started on it.

    Raises:
        ImageRejected: `format_unsupported`, or `image_unreadable` for what is no JPEG at all.
    """
    if header.frame not in _DECODED_FRAMES:
        raise ImageRejected(
            "format_unsupported",
            f"a JPEG of frame type SOF{header.frame}; decoded are SOF0, 1, 2, 3, 9 and 10",
        )
    if header.bit_depth != 8:
        lowest, highest = (2, 16) if header.frame == _LOSSLESS_FRAME else (8, 12)
        is_possible = lowest <= header.bit_depth <= highest
        raise ImageRejected(
            "format_unsupported" if is_possible else "image_unreadable",
            f"a JPEG of {header.bit_depth} bits a sample; decoded are 8",
        )
    if header.channels not in (1, 3, 4):
        raise ImageRejected(
            "format_unsupported" if header.channels else "image_unreadable",
            f"a JPEG of {header.channels} components; decoded are 1, 3 and 4",
        )


def scale_denominator(header: ImageHeader, size: Bucket) -> int:
    """The strongest reduction at which the kept window still covers the stored picture; 1 for
    frames that are not decoded scaled."""
    if header.frame not in _SCALED_FRAMES:
        return 1
    window = centre_window(header.width, header.height, size)
    return next((d for d in _DENOMINATORS if window.covers(size, times=d)), 1)


def decode_jpeg(data: bytes, header: ImageHeader, *, denominator: int) -> NDArray[np.uint8]:
    """Decodes a grey or three-channel JPEG at 1/denominator of its size (1, 2, 4 or 8).

    Returns:
        [height, width, 3] RGB or [height, width, 1] grey; sides divided and rounded up.

    Raises:
        ImageRejected: `image_truncated` or `image_unreadable`.
        NotForFastPath: four channels, a reduction that the frame does not allow, or a harmless
            warning.
    """
    is_plain = header.frame in _SCALED_FRAMES
    if header.channels not in (1, 3) or header.bit_depth != 8 or not (is_plain or denominator == 1):
        raise NotForFastPath
    height, width = -(-header.height // denominator), -(-header.width // denominator)
    colour = "GRAY" if header.channels == 1 else "RGB"
    try:
        image = simplejpeg.decode_jpeg(data, colour, min_height=height, min_width=width)
    except ValueError as error:
        raise _judged(str(error), is_plain=is_plain) from error
    if image.shape[:2] != (height, width):
        raise NotForFastPath
    return np.asarray(image, np.uint8)


def encode_jpeg(image: NDArray[np.uint8], *, quality: int, subsampling: str) -> bytes:
    """Encodes [height, width, 3] RGB as JFIF, with nothing but the pixels in it."""
    encoded: bytes = simplejpeg.encode_jpeg(
        image, quality, "RGB", subsampling.replace(":", ""), fastdct=False
    )
    return encoded


def _judged(warning: str, *, is_plain: bool) -> Exception:
    harmless = (*_HARMLESS, *_HARMLESS_IN_PLAIN) if is_plain else _HARMLESS
    if any(text in warning for text in harmless):
        return NotForFastPath()
    if "Premature end of JPEG" in warning or "premature end of data" in warning:
        message = "the JPEG data ends before the last pixel"
        return ImageRejected("image_truncated", message, may_have_written=not is_plain)
    if "Corrupt JPEG data" in warning:
        message = "the JPEG data is corrupt"
        return ImageRejected("image_unreadable", message, may_have_written=not is_plain)
    if "memory" in warning.lower():
        return MemoryError()
    return NotForFastPath()
