"""Every format but plain JPEG, through Pillow: the window in the middle, as RGB or grey, 8 bits.

Palettes, 16 bits, CMYK and transparency (composited on white) are settled here. Of an animation
the first frame counts. ICC profiles are ignored, as img2dataset and open_clip ignore them: a
profile is a program in the file, and reading them differently would move published scores.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
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

from pipelines.steps.download.bounds import MAX_TEXT_BYTES, choose_way
from pipelines.steps.download.geometry import CropWindow, centre_window, strip_reduction
from pipelines.steps.download.header import ImageFormat, ImageHeader, check_size, webp_orientation
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import bare_jpeg, exif_orientation
from pipelines.steps.download.png_chunks import without_metadata
from pipelines.steps.download.stored_size import unturned_size
from pipelines.steps.download.tiff_header import exif_bytes
from sd_core.model.buckets import Bucket

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
PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
_STRIP_ROWS, _STRIP_PIXELS = 256, 1 << 19
_MAX_EXIF_BYTES = 4 << 20
_ORIENTATION_TAG = 0x0112
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE_GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_PLAIN_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")


@dataclass(frozen=True, kw_only=True)
class RasterWindow:
    """The window at its original resolution, not yet turned by `orientation` (EXIF's, 1 to 8)."""

    pixels: NDArray[np.uint8]  # [height, width, 3] RGB, or [height, width, 1] grey
    size: Bucket  # of the stored picture, not yet turned
    orientation: int
    width: int  # of the whole original, in pixels, not yet turned
    height: int


def decode_window(data: bytes, header: ImageHeader, config: ImageConfig) -> RasterWindow:
    """Decodes the largest window of the stored picture's aspect in the middle.

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
                return _decoded(bare, header, config, beside_bytes=len(data))
        raise judged


def _decoded(
    data: bytes, header: ImageHeader, config: ImageConfig, *, beside_bytes: int = 0
) -> RasterWindow:
    way = choose_way(data, header, config, beside_bytes=beside_bytes)
    if way == "lean":
        return _lean_webp(data, header, config)
    is_jpeg = header.format == "jpeg"  # whichever decoder takes it, it is turned alike
    file = io.BytesIO(bare_jpeg(data) if is_jpeg else data)
    image: PillowImage = _OPENERS[header.format](file)
    _check_same_size(image, header, config)
    image.load()
    orientation = header.orientation if is_jpeg else _orientation(image)
    size = unturned_size(image.width, image.height, orientation, config)
    window, made = _window_of(image.width, image.height, size, is_reduced=way == "strips")
    strips = (image.crop(box) for box in _strip_boxes(window))
    return RasterWindow(
        pixels=_joined(strips, made, transparency=image.info.get("transparency")),
        size=size,
        orientation=orientation,
        width=image.width,
        height=image.height,
    )


def _lean_webp(data: bytes, header: ImageHeader, config: ImageConfig) -> RasterWindow:
    """Of a still WebP: Pillow's decoder, made for animations, keeps it four times."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != (header.height, header.width):
        raise ImageRejected("image_unreadable", "the webp decoder refused it")
    orientation = webp_orientation(data)
    size = unturned_size(header.width, header.height, orientation, config)
    window, made = _window_of(header.width, header.height, size, is_reduced=True)
    order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    strips = (
        Image.fromarray(cv2.cvtColor(image[top:bottom, left:right], order))
        for left, top, right, bottom in _strip_boxes(window)
    )
    return RasterWindow(
        pixels=_joined(strips, made),
        size=size,
        orientation=orientation,
        width=header.width,
        height=header.height,
    )


def _check_same_size(image: PillowImage, header: ImageHeader, config: ImageConfig) -> None:
    """Pillow sizes its buffers by its own reading of the header; what is allowed, and what libjpeg
    fills, goes by ours."""
    check_size(image.width, image.height, config)
    sizes = image.size, (header.width, header.height)
    if sizes[0] not in (sizes[1], sizes[1][::-1] if header.format == "tiff" else sizes[1]):
        message = f"its {header.format.upper()} headers can be read in two ways"
        raise ImageRejected("image_unreadable", message)


def _orientation(image: PillowImage) -> int:
    exif = image.info.get("exif", b"")
    if exif_bytes(exif) > _MAX_EXIF_BYTES:  # Pillow would copy them all
        return exif_orientation(exif)
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block says nothing; the pixels are fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _window_of(
    width: int, height: int, size: Bucket, *, is_reduced: bool
) -> tuple[CropWindow, CropWindow]:
    """The window in the middle, and what is left of it once its strips are averaged."""
    reduction = strip_reduction(centre_window(width, height, size), size) if is_reduced else 1
    window = centre_window(width, height, size, align=reduction)
    return window, window.reduced(reduction)


def _strip_boxes(window: CropWindow) -> Iterator[tuple[int, int, int, int]]:
    """Yields (left, top, right, bottom) of the window's strips, a multiple of 8 rows each but the
    last."""
    rows = min(_STRIP_ROWS, max(8, _STRIP_PIXELS // window.width // 8 * 8))
    right, end = window.left + window.width, window.top + window.height
    for top in range(window.top, end, rows):
        yield window.left, top, right, min(top + rows, end)


def _joined(
    strips: Iterator[PillowImage], made: CropWindow, *, transparency: Any = None
) -> NDArray[np.uint8]:
    """The strips as one array as high as `made`, each averaged to its width."""
    pixels: NDArray[np.uint8] | None = None
    begin = 0
    for strip in strips:
        found = _strip_pixels(strip, transparency)
        if strip.width != made.width:
            size = (made.width, strip.height * made.width // strip.width)
            shrunk = cv2.resize(found, size, interpolation=cv2.INTER_AREA)
            found = np.asarray(shrunk, np.uint8).reshape(*size[::-1], -1)
        if pixels is None:
            pixels = np.empty((made.height, made.width, found.shape[2]), np.uint8)
        pixels[begin : begin + len(found)] = found
        begin += len(found)
    assert pixels is not None
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
