"""What decoding an original will take, by its header and bytes, before a decoder is started.

Nothing here looks at a clock or at the memory of this machine, so that every machine keeps the same
pictures. The figures are of Pillow 13, OpenCV 4.14 and simplejpeg 1.9, each format and mode near
its limit in a fresh process (`tests/hostile/test_decode_bounds.py` measures them again).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from pipelines.rows.image_formats import ImageFormat
from pipelines.steps.download.geometry import centre_window, strip_reduction
from pipelines.steps.download.header import ImageHeader, is_animated_webp
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import count_scan_marks, count_scans
from pipelines.steps.download.png_chunks import chunks
from pipelines.steps.download.stored_size import possible_sizes
from pipelines.steps.download.tiff_header import read_tiff_directory

Way = Literal["whole", "strips", "lean"]
"""How a raster is decoded: the whole window at once; in strips, each reduced on its own, so that
the window is never there in full; in strips from OpenCV's decoder, which takes less than Pillow's.
"""

MAX_TEXT_BYTES: Final = 4 << 20
"""Unpacked texts of a PNG that are read; one with more is decoded without them."""

_BESIDE = 20 << 20  # pages of the libraries, a strip in work, a stored square of 512 pixels
_RGB = 3
_PILLOW_RGB = 4
_MAX_SCANS = 500
_MAX_SCANNED_PIXELS = 1_000_000_000  # every scan goes over all pixels
_MAX_BLOCKS = 65_536  # strips or tiles
_MAX_RUN_STEPS = 20_000_000  # Pillow unpacks BMP's runs in Python
_STEPS_OF_A_RUN = 10
_BLOCK_RECORD_BYTES, _FRAME_RECORD_BYTES = 512, 256
_UNCOMPRESSED, _JPEG_IN_TIFF = 1, (6, 7)
# In an AV1 configuration: whether samples have two bytes, and of how many pixels one has colour.
_AV1_CONFIGURATION = re.compile(rb"av1C..(.)", re.DOTALL)
_AVIF_HEADER_BYTES = 1 << 20
_HIGH_BITS, _GREY, _HALF_WIDTH, _HALF_HEIGHT = 0x40, 0x10, 0x08, 0x04
# Before there was this table; a run goes on with the bounds that it began with.
_EARLIER_BYTES_PER_PIXEL = {"webp": 18, "avif": 16}


@dataclass(frozen=True, kw_only=True)
class _Need:
    """Bytes: at most `loading`, and `loaded` once the decoder is done, beside the window."""

    loading: float
    loaded: float

    def beside(self, window_pixels: int) -> float:
        """The most that is held, with a window of that many pixels in RGB."""
        return max(self.loading, self.loaded + _RGB * window_pixels)


def check_jpeg(data: bytes, header: ImageHeader, config: ImageConfig, *, denominator: int) -> None:
    """Refuses a JPEG that would take too much memory or too many passes at 1/denominator.

    Raises:
        ImageRejected: `decode_out_of_memory`, `too_many_parts`.
    """
    if config.bounds == 1:
        return
    pixels = header.width * header.height
    if header.coefficient_bytes:
        most = min(_MAX_SCANS, max(1, _MAX_SCANNED_PIXELS // pixels))
        _check_parts("scans", count_scans(data, most), most)
    image = _RGB / denominator**2
    needed = _BESIDE + 2 * len(data) + pixels * (header.coefficient_bytes + image)
    _check_memory(needed, header, config)


def choose_way(
    data: bytes, header: ImageHeader, config: ImageConfig, *, beside_bytes: int = 0
) -> Way:
    """The first way of decoding a raster that fits into `max_memory_bytes`.

    Args:
        beside_bytes: held already.

    Raises:
        ImageRejected: `decode_out_of_memory` where none does, `too_many_parts`.
    """
    pixels = header.width * header.height
    if config.bounds == 1:
        _check_memory(pixels * _EARLIER_BYTES_PER_PIXEL.get(header.format, 0), header, config)
        return "whole"
    held = _BESIDE + beside_bytes + len(data)
    whole, reduced = _window_pixels(header, config)
    need = _NEEDS[header.format](data, header, pixels)
    if held + need.beside(whole) <= config.max_memory_bytes:
        return "whole"
    if held + need.beside(reduced) <= config.max_memory_bytes:
        return "strips"
    least = need
    if header.format == "webp" and not is_animated_webp(data):
        least = _lean_webp(data, pixels)
    _check_memory(held + least.beside(reduced), header, config)
    return "lean"


def _window_pixels(header: ImageHeader, config: ImageConfig) -> tuple[int, int]:
    """The most pixels that the window and, reduced, its strips may have, turned or not."""
    whole, reduced = 0, 0
    for size in possible_sizes(header.width, header.height, config):
        window = centre_window(header.width, header.height, size)
        strips = window.reduced(strip_reduction(window, size))
        whole = max(whole, window.width * window.height)
        reduced = max(reduced, strips.width * strips.height)
    return whole, reduced


def _check_memory(needed: float, header: ImageHeader, config: ImageConfig) -> None:
    if needed > config.max_memory_bytes:
        raise ImageRejected(
            "decode_out_of_memory",
            f"{header.format} of {header.width} x {header.height} takes about {needed:.0f} bytes;"
            f" image.max_memory_bytes is {config.max_memory_bytes}",
        )


def _check_parts(name: str, found: int, most: int) -> None:
    if found > most:
        raise ImageRejected("too_many_parts", f"more than {most} {name}, for its size")


def _jpeg(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    image = 1 if header.channels == 1 else _PILLOW_RGB
    copy = len(data)  # without metadata
    return _Need(
        loading=copy + pixels * (image + header.coefficient_bytes), loaded=copy + pixels * image
    )


def _png(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    beside = 0  # of chunks that are read at once
    for name, start, end in chunks(data):
        if name in (b"zTXt", b"iTXt"):
            beside += 4 * MAX_TEXT_BYTES if not beside else 0  # a character may take four bytes
        if name not in (b"IDAT", b"fdAT", b""):
            beside += 4 * (end - start)
    colour = data[25]
    image = {0: header.bit_depth // 8 or 1, 3: 1}.get(colour, _PILLOW_RGB)
    return _Need(loading=beside + image * pixels, loaded=beside + image * pixels)


def _gif(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    beside = 5 * header.first_frame  # comments in blocks of a byte
    return _Need(loading=beside + 2 * pixels, loaded=beside + 2 * pixels)


def _bmp(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    if data[14:18] != b"\x0c\0\0\0" and data[30:34] in (b"\1\0\0\0", b"\2\0\0\0"):
        steps = pixels + _STEPS_OF_A_RUN * (len(data) // 2)
        _check_parts("pixels and runs of a run-length coded BMP", steps, _MAX_RUN_STEPS)
        return _Need(loading=3 * pixels, loaded=pixels)
    image = 1 if header.bit_depth <= 8 else _PILLOW_RGB
    return _Need(loading=image * pixels, loaded=image * pixels)


def _tiff(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    found = read_tiff_directory(data)
    _check_parts("strips or tiles", found.num_blocks, _MAX_BLOCKS)
    image = _PILLOW_RGB * pixels
    if found.samples == 1 and found.bit_depth <= 16:
        image = (1 if found.bit_depth <= 8 else 2) * pixels
    block = 0 if found.compression == _UNCOMPRESSED else found.block_bytes
    if found.compression in _JPEG_IN_TIFF:
        most = max(found.num_blocks, _MAX_SCANNED_PIXELS // max(1, found.block_pixels))
        _check_parts("scans", count_scan_marks(data), most)
        block += 8 * found.block_pixels
    turned = image if found.orientation != 1 else 0
    beside = 2 * found.tag_bytes + _BLOCK_RECORD_BYTES * found.num_blocks
    return _Need(loading=beside + image + max(block, turned), loaded=beside + image)


def _webp(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    beside = 2 * len(data) + _FRAME_RECORD_BYTES * data.count(b"ANMF")
    return _Need(loading=beside + 16.5 * pixels, loaded=beside + 12 * pixels)


def _lean_webp(data: bytes, pixels: int) -> _Need:
    is_plain = b"VP8L" not in data and b"ALPH" not in data
    return _Need(loading=(6.3 if is_plain else 8.3) * pixels, loaded=_PILLOW_RGB * pixels)


def _avif(data: bytes, header: ImageHeader, pixels: int) -> _Need:
    planes = 0.6
    for flags in _AV1_CONFIGURATION.findall(data, 0, _AVIF_HEADER_BYTES):
        sample = 2 if flags[0] & _HIGH_BITS else 1
        halvings = bool(flags[0] & _HALF_WIDTH) + bool(flags[0] & _HALF_HEIGHT)
        planes += sample * (1 if flags[0] & _GREY else 1 + 2 / 2**halvings)
    copies = 2 if b"grid" in data[:_AVIF_HEADER_BYTES] else 1  # tiles, and what they make
    return _Need(
        loading=len(data) + (planes * copies + 2 * _PILLOW_RGB) * pixels,
        loaded=len(data) + (planes * copies + _PILLOW_RGB) * pixels,
    )


_NEEDS: dict[ImageFormat, Callable[[bytes, ImageHeader, int], _Need]] = {
    "jpeg": _jpeg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "bmp": _bmp,
    "tiff": _tiff,
    "avif": _avif,
}
