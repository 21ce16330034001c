"""What an image's header claims, whatever its format."""

from dataclasses import dataclass

from pipelines.rows.image_formats import ImageFormat


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header claims; width and height in pixels as stored, before any rotation."""

    format: ImageFormat
    width: int
    height: int
    bit_depth: int = 8  # bits per channel
    channels: int = 3  # JPEG: components; elsewhere not relied upon
    orientation: int = 1  # EXIF's, 1 to 8; read here for JPEG only
    frame: int = 0  # JPEG: n of its marker SOFn
    first_frame: int = 0  # GIF: where it begins
    coefficient_bytes: float = 0.0  # JPEG of several scans: a pixel's, held until the last one
