"""One decode of an original: bytes in, the stored square out. A pure function of its arguments."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.stages.download.geometry import Window, centre_square, upright
from pipelines.stages.download.header import ImageHeader, check_size, read_header
from pipelines.stages.download.image_config import ImageConfig
from pipelines.stages.download.image_rejected import ImageRejected
from pipelines.stages.download.jpeg import NotForFastPath, decode_jpeg, encode_jpeg
from pipelines.stages.download.raster import decode_square
from pipelines.stages.download.resample import resize_square

_MAX_BANDED_SHRINK = 2.0  # beyond it OpenCV's own area mean is faster


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The stored square: `image` is the encoded file; sizes are in pixels, the original's as
    a viewer shows it (EXIF orientation applied)."""

    image: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str


@dataclass(frozen=True, kw_only=True)
class CropPixels:
    """The square before it is encoded: [size, size, 3] RGB, uint8; sizes as in `Crop`."""

    pixels: NDArray[np.uint8]
    original_width: int
    original_height: int
    original_format: str


def decode_crop(data: bytes, config: ImageConfig) -> Crop:
    """Makes the stored square of one original.

    Raises:
        ImageRejected: with one of the decoder's reasons.
        MemoryError: beyond the limit of the process.
    """
    crop = crop_pixels(data, config)
    return Crop(
        image=encode_pixels(crop.pixels, config),
        width=config.size,
        height=config.size,
        original_width=crop.original_width,
        original_height=crop.original_height,
        original_format=crop.original_format,
    )


def crop_pixels(data: bytes, config: ImageConfig, *, scaled: bool = True) -> CropPixels:
    """Decodes, crops the largest square in the middle, resizes it, turns it upright.

    Args:
        scaled: False decodes JPEGs whole, as a reference to measure scaled decoding against.

    Raises:
        ImageRejected: with one of the decoder's reasons.
        MemoryError: beyond the limit of the process.
    """
    header = read_header(data)
    width, height = header.shown_size(header.orientation)
    try:
        check_size(width, height, config)
        square, orientation = _square(data, header, config, scaled=scaled)
    except ImageRejected as rejected:
        rejected.original_width, rejected.original_height = width, height
        rejected.original_format = header.format
        raise
    width, height = header.shown_size(orientation)
    return CropPixels(
        pixels=upright(square, orientation),
        original_width=width,
        original_height=height,
        original_format=header.format,
    )


def _square(
    data: bytes, header: ImageHeader, config: ImageConfig, *, scaled: bool
) -> tuple[NDArray[np.uint8], int]:
    """The resized square, not yet turned, and the orientation by which it must be."""
    try:
        if header.format != "jpeg":
            raise NotForFastPath
        target = config.size if scaled else max(header.width, header.height)
        decoded = decode_jpeg(data, header, size=target)
    except NotForFastPath:
        pixels, orientation = decode_square(data, header.format, config)
        window = Window(left=0, top=0, side=len(pixels))
        return _resized(pixels, window, size=config.size, reduced=False), orientation
    reduced = decoded.denominator > 1
    window = centre_square(header.width, header.height).scaled(decoded.denominator)
    square = _resized(decoded.image, window, size=config.size, reduced=reduced)
    return square, header.orientation


def encode_pixels(pixels: NDArray[np.uint8], config: ImageConfig) -> bytes:
    """Encodes [size, size, 3] RGB as the configuration says, without any metadata."""
    if config.format == "jpg":
        return encode_jpeg(pixels, quality=config.quality, subsampling=config.subsampling)
    options = [] if config.format == "png" else [cv2.IMWRITE_WEBP_QUALITY, config.quality]
    _, encoded = cv2.imencode(f".{config.format}", pixels[:, :, ::-1], options)
    return encoded.tobytes()


def _resized(
    pixels: NDArray[np.uint8], window: Window, *, size: int, reduced: bool
) -> NDArray[np.uint8]:
    if reduced or window.side <= _MAX_BANDED_SHRINK * size:
        return resize_square(pixels, window=window, size=size, edge_order=4 if reduced else 2)
    left, top, side = (math.floor(value) for value in (window.left, window.top, window.side))
    square = pixels[top : top + side, left : left + side]
    small = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    return np.asarray(small, np.uint8)


__all__ = ["Crop", "CropPixels", "ImageRejected", "crop_pixels", "decode_crop", "encode_pixels"]
