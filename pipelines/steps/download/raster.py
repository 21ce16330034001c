"""Every format but plain JPEG, through Pillow: the square in the middle, as RGB or grey, 8 bits.

Palettes, 16 bits, CMYK and transparency (composited on white) are settled here. Of an animation
the first frame counts. ICC profiles are ignored, as img2dataset and open_clip ignore them: a
profile is a program in the file, and reading them differently would move published scores.
"""

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import Image as PillowImage

from pipelines.steps.download.geometry import Square, centre_square
from pipelines.steps.download.header import ImageFormat, ImageHeader, check_size
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.png_chunks import without_metadata

_OPENERS: dict[ImageFormat, type] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
}
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
_STRIP_ROWS = 256
_ORIENTATION_TAG = 0x0112
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True, kw_only=True)
class RasterSquare:
    """The square at its original resolution, not yet turned by `orientation` (EXIF's, 1 to 8)."""

    pixels: NDArray[np.uint8]  # [side, side, 3] RGB, or [side, side, 1] grey
    orientation: int
    width: int  # of the whole original, in pixels, not yet turned
    height: int


def decode_square(data: bytes, header: ImageHeader, config: ImageConfig) -> RasterSquare:
    """Decodes the largest square in the middle.

    Raises:
        ImageRejected: whatever a broken file deserves.
        MemoryError: beyond the process's limit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded(data, header, config)
        except (ImageRejected, MemoryError):
            raise
        except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
            judged = _judged(header.format, error)
        if header.format == "png" and (bare := without_metadata(data)) != data:
            with suppress(Exception):  # the first verdict stands
                return _decoded(bare, header, config)
        raise judged


def _decoded(data: bytes, header: ImageHeader, config: ImageConfig) -> RasterSquare:
    image: PillowImage = _OPENERS[header.format](io.BytesIO(data))
    check_size(image.width, image.height, config)  # if the header told us otherwise
    _check_same_frame(image, header)
    image.load()
    is_jpeg = header.format == "jpeg"  # whichever decoder takes it, it is turned alike
    return RasterSquare(
        pixels=_square_pixels(image, centre_square(image.width, image.height)),
        orientation=header.orientation if is_jpeg else _orientation(image),
        width=image.width,
        height=image.height,
    )


def _check_same_frame(image: PillowImage, header: ImageHeader) -> None:
    """Pillow sizes its buffers by its own reading of a JPEG's header, libjpeg fills them by its."""
    if header.format == "jpeg" and image.size != (header.width, header.height):
        raise ImageRejected("image_unreadable", "its JPEG headers can be read in two ways")


def _orientation(image: PillowImage) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block says nothing; the pixels are fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _square_pixels(image: PillowImage, square: Square) -> NDArray[np.uint8]:
    left, top, side = square.left, square.top, square.side
    strips = (
        image.crop((left, top + begin, left + side, top + min(begin + _STRIP_ROWS, side)))
        for begin in range(0, side, _STRIP_ROWS)
    )
    transparency = image.info.get("transparency")
    first = _strip_pixels(next(strips), transparency)
    pixels = np.empty((side, side, first.shape[2]), np.uint8)
    pixels[: len(first)] = first
    for number, strip in enumerate(strips, start=1):
        begin = number * _STRIP_ROWS
        pixels[begin : begin + _STRIP_ROWS] = _strip_pixels(strip, transparency)
    return pixels


def _strip_pixels(strip: PillowImage, transparency: Any) -> NDArray[np.uint8]:
    """[rows, columns, 3] or [rows, columns, 1], uint8, of a few rows in any of Pillow's modes."""
    if strip.mode in _WIDE_GREY_MODES:
        return _wide_grey_pixels(np.asarray(strip), transparency)
    if strip.mode in _ALPHA_MODES or (transparency is not None and strip.mode in _PLAIN_MODES):
        if strip.mode not in _ALPHA_MODES:
            strip.info["transparency"] = transparency
        rgba = strip.convert("RGBA")
        white = Image.new("RGB", strip.size, (255, 255, 255))
        white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return np.asarray(white)
    if strip.mode in ("1", "L"):
        return np.asarray(strip.convert("L"))[:, :, None]
    if strip.mode in _PLAIN_MODES:
        return np.asarray(strip.convert("RGB"))
    raise ImageRejected("format_unsupported", f"pixels of Pillow's mode {strip.mode}")


def _wide_grey_pixels(wide: NDArray[np.uint16], transparency: Any) -> NDArray[np.uint8]:
    values = wide.astype(np.uint32)
    pixels = ((values * 255 + 32767) // 65535).astype(np.uint8)
    if isinstance(transparency, int):
        pixels[values == transparency] = 255
    return pixels[:, :, None]


def _judged(name: ImageFormat, error: Exception) -> ImageRejected:
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text:
        return ImageRejected(
            "image_truncated",
            f"the {name} data ends before the last pixel",
            may_have_written=True,
        )
    return ImageRejected(
        "image_unreadable", f"the {name} decoder refused it", may_have_written=True
    )
