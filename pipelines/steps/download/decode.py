"""One decode of an original: bytes in, the stored crop out. A pure function of its arguments."""

from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.rows.image_facts import ImageFacts, measure_image
from pipelines.steps.download.bounds import check_jpeg
from pipelines.steps.download.geometry import CropWindow, centre_window, resize_window, upright
from pipelines.steps.download.header import ImageHeader, check_size, read_header, shown_size
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg import (
    NotForFastPath,
    check_frame,
    decode_jpeg,
    encode_jpeg,
    scale_denominator,
)
from pipelines.steps.download.raster import decode_window
from pipelines.steps.download.stored_size import unturned_size


@dataclass(frozen=True, kw_only=True)
class Crop:
    """What is stored: `image` is the encoded file; sizes are in pixels, the original's as
    a viewer shows it (EXIF orientation applied)."""

    image: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    original_format: str
    facts: ImageFacts


@dataclass(frozen=True, kw_only=True)
class CropPixels:
    """The crop before it is encoded: [height, width, 3] RGB, uint8; sizes as in `Crop`."""

    pixels: NDArray[np.uint8]
    original_width: int
    original_height: int
    original_format: str


def decode_to_crop(data: bytes, config: ImageConfig) -> Crop:
    """Makes the stored crop of one original.

    Raises:
        ImageRejected: with one of the decoder's reasons.
        MemoryError: beyond the limit of the process.
    """
    crop = crop_pixels(data, config)
    height, width, _ = crop.pixels.shape
    return Crop(
        image=encode_pixels(crop.pixels, config),
        width=width,
        height=height,
        original_width=crop.original_width,
        original_height=crop.original_height,
        original_format=crop.original_format,
        facts=measure_image(crop.pixels, config.facts),
    )


def crop_pixels(data: bytes, config: ImageConfig, *, scaled: bool = True) -> CropPixels:
    """Decodes, crops the largest window of its size's aspect in the middle, resizes it, turns it
    upright.

    Args:
        scaled: False decodes JPEGs whole, as a reference to measure scaled decoding against.

    Raises:
        ImageRejected: with one of the decoder's reasons.
        MemoryError: beyond the limit of the process.
    """
    header = read_header(data)
    try:
        check_size(header.width, header.height, config)
        if header.format == "jpeg":
            check_frame(header)
            with suppress(NotForFastPath):
                return _jpeg_crop(data, header, config, scaled=scaled)
        return _raster_crop(data, header, config)
    except ImageRejected as rejected:
        width, height = shown_size(header.width, header.height, header.orientation)
        rejected.original_width, rejected.original_height = width, height
        rejected.original_format = header.format
        raise


def _jpeg_crop(
    data: bytes, header: ImageHeader, config: ImageConfig, *, scaled: bool
) -> CropPixels:
    size = unturned_size(header.width, header.height, header.orientation, config)
    align = scale_denominator(header, size)
    denominator = align if scaled else 1
    check_jpeg(data, header, config, denominator=denominator)
    image = decode_jpeg(data, header, denominator=denominator)
    window = centre_window(header.width, header.height, size, align=align).reduced(denominator)
    pixels = resize_window(
        image, window, size=size, enlarge=config.enlarge, reduced=denominator > 1
    )
    width, height = shown_size(header.width, header.height, header.orientation)
    return CropPixels(
        pixels=upright(pixels, header.orientation),
        original_width=width,
        original_height=height,
        original_format=header.format,
    )


def _raster_crop(data: bytes, header: ImageHeader, config: ImageConfig) -> CropPixels:
    raster = decode_window(data, header, config)
    high, wide = raster.pixels.shape[:2]
    whole = CropWindow(left=0, top=0, width=wide, height=high)
    pixels = resize_window(raster.pixels, whole, size=raster.size, enlarge=config.enlarge)
    width, height = shown_size(raster.width, raster.height, raster.orientation)
    return CropPixels(
        pixels=upright(pixels, raster.orientation),
        original_width=width,
        original_height=height,
        original_format=header.format,
    )


def encode_pixels(pixels: NDArray[np.uint8], config: ImageConfig) -> bytes:
    """Encodes [height, width, 3] RGB as the configuration says, without any metadata."""
    if config.format == "jpg":
        return encode_jpeg(pixels, quality=config.quality, subsampling=config.subsampling)
    options = [] if config.format == "png" else [cv2.IMWRITE_WEBP_QUALITY, config.quality]
    _, encoded = cv2.imencode(f".{config.format}", pixels[:, :, ::-1], options)
    return encoded.tobytes()
