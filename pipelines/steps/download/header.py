"""What an image's first bytes say: format, size and turn, before any decoder is started.

Every read is bounded: loops walk segments, chunks or boxes of the bytes that were fetched, each
step moving forward, so a hostile header costs microseconds.
"""

import struct
from collections.abc import Callable, Iterator

from pipelines.rows.image_formats import ImageFormat as ImageFormat
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_header import ImageHeader as ImageHeader
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import MAX_STEPS, exif_orientation, read_jpeg_header
from pipelines.steps.download.tiff_header import read_tiff_directory

_MAX_GIF_BLOCKS = 200_000  # each up to 255 bytes


def shown_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) as a viewer shows an image of that EXIF orientation."""
    return (height, width) if orientation in (5, 6, 7, 8) else (width, height)


def read_header(data: bytes) -> ImageHeader:
    """Recognises the format by its magic bytes and reads the size.

    Raises:
        ImageRejected: `format_unsupported`, `image_unreadable` or `image_truncated`.
    """
    name = _format(data)
    try:
        header = _READERS[name](data)
    except (struct.error, IndexError) as error:
        raise ImageRejected(
            "image_truncated", f"{name} header ends early: {len(data)} bytes were fetched"
        ) from error
    if header.width < 1 or header.height < 1:
        raise ImageRejected(
            "image_unreadable", f"{name} header claims {header.width} x {header.height} pixels"
        )
    return header


def check_size(width: int, height: int, config: ImageConfig) -> None:
    """Refuses, by the claimed size alone, what must not or need not be decoded.

    Raises:
        ImageRejected: `too_many_pixels`, `image_too_small` or `aspect_above_max`.
    """
    shorter, longer = sorted((width, height))
    if width * height > config.max_pixels:
        raise ImageRejected(
            "too_many_pixels",
            f"{width} x {height} is {width * height} pixels; image.max_pixels is"
            f" {config.max_pixels}",
        )
    if shorter < config.min_side_px:
        raise ImageRejected(
            "image_too_small",
            f"{width} x {height} has a side below image.min_side_px = {config.min_side_px}",
        )
    if longer > config.max_aspect * shorter:
        raise ImageRejected(
            "aspect_above_max",
            f"{width} x {height} has aspect {longer / shorter:.2f}; image.max_aspect is"
            f" {config.max_aspect:g}",
        )


def _format(data: bytes) -> ImageFormat:
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if data[4:8] == b"ftyp":
        if b"avif" in data[8:64] or b"avis" in data[8:64]:
            return "avif"
        raise ImageRejected("format_unsupported", "an ISO media file that is not AVIF (HEIC?)")
    if data[:2] == b"BM" and len(data) >= 18 and data[6:10] == b"\0\0\0\0":
        return "bmp"
    raise ImageRejected(
        "format_unsupported",
        f"the {len(data)} bytes are none of JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF",
    )


def _png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise ImageRejected("image_unreadable", "PNG without a header chunk in its place")
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    return ImageHeader(format="png", width=width, height=height, bit_depth=depth)


def _gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    blocks = 0
    for _ in range(MAX_STEPS):
        if data[position] != 0x21:
            break
        position += 2
        while data[position]:  # an extension's data, in blocks of up to 255 bytes
            position += 1 + data[position]
            blocks += 1
            if blocks > _MAX_GIF_BLOCKS:
                raise ImageRejected("too_many_parts", f"a GIF of over {_MAX_GIF_BLOCKS} blocks")
        position += 1
    if data[position] != 0x2C:
        raise ImageRejected("image_unreadable", "GIF without a frame")
    # The first frame may reach beyond the claimed screen.
    left, top, across, down = struct.unpack_from("<HHHH", data, position + 1)
    return ImageHeader(
        format="gif",
        width=max(width, left + across),
        height=max(height, top + down),
        first_frame=position,
    )


def _webp(data: bytes) -> ImageHeader:
    (riff_length,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
        struct.unpack_from("6x", data, 24)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ImageRejected("image_unreadable", "WebP with an unknown first chunk")
    if riff_length + 8 > len(data):
        raise ImageRejected(
            "image_truncated", f"WebP claims {riff_length + 8} bytes; {len(data)} were fetched"
        )
    return ImageHeader(format="webp", width=width, height=height)


def is_animated_webp(data: bytes) -> bool:
    """Whether it has frames."""
    return data[12:16] == b"VP8X" and bool(data[20] & 0x02)


def webp_orientation(data: bytes) -> int:
    """EXIF's, 1 to 8; 1 where it says none."""
    position = 12
    for _ in range(MAX_STEPS):
        if position + 8 > len(data):
            break
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return 1


def _bmp(data: bytes) -> ImageHeader:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height, _, depth = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, depth = struct.unpack_from("<iiHH", data, 18)
    return ImageHeader(format="bmp", width=abs(width), height=abs(height), bit_depth=depth)


def _tiff(data: bytes) -> ImageHeader:
    found = read_tiff_directory(data)
    return ImageHeader(
        format="tiff", width=found.width, height=found.height, bit_depth=found.bit_depth
    )


def _avif(data: bytes) -> ImageHeader:
    """The largest `ispe` (image spatial extents) property: grids and masks are never larger."""
    properties = data
    for name, skip in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        start, end = next(_boxes(properties, name), (0, 0))
        if end == 0:
            raise ImageRejected("image_unreadable", "AVIF without image properties")
        properties = properties[start + skip : end]
    sizes = [
        struct.unpack_from(">II", properties, start + 4) for start, _ in _boxes(properties, b"ispe")
    ]
    if not sizes:
        raise ImageRejected("image_unreadable", "AVIF without a size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return ImageHeader(format="avif", width=width, height=height)


def _boxes(data: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """Yields (start, end) of the content of each ISO media box of that name."""
    position = 0
    for _ in range(MAX_STEPS):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, position + 8)
            head = 16
        elif length == 0:
            length = len(data) - position
        if length < head:
            return
        if kind == name:
            yield position + head, min(position + length, len(data))
        position += length


_READERS: dict[ImageFormat, Callable[[bytes], ImageHeader]] = {
    "jpeg": read_jpeg_header,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "bmp": _bmp,
    "tiff": _tiff,
    "avif": _avif,
}
