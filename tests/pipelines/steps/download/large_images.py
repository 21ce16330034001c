"""Large pictures of every format and mode, made cheaply: files of rows that repeat."""

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Make = Callable[[int, int], bytes]
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def picture(width: int, height: int, channels: int = 3) -> NDArray[np.uint8]:
    """[height, width, channels] of ramps with some grain; [height, width] of one channel."""
    across = np.linspace(0, 200, width).astype(np.uint8)
    down = np.linspace(0, 50, height).astype(np.uint8)
    ramp = across[None] + down[:, None]
    grain = np.random.default_rng(1).integers(0, 6, (64, width), dtype=np.uint8)
    ramp += np.resize(grain, (height, width))
    return ramp if channels == 1 else np.repeat(ramp[:, :, None], channels, axis=2)


def by_pillow(name: str, mode: str = "RGB", *, frames: int = 1, **options: object) -> Make:
    """Makes files that Pillow writes."""

    def make(width: int, height: int) -> bytes:
        channels = {"L": 1, "1": 1, "P": 1, "RGB": 3}.get(mode, 4)
        pixels = picture(width, height, channels)
        image = Image.fromarray(pixels)
        if mode == "CMYK":
            image = Image.frombytes("CMYK", image.size, pixels.tobytes())
        elif mode in ("1", "P"):
            image = image.convert(mode)
        more = {"save_all": True, "append_images": [image.point(lambda v: 255 - v)]}
        buffer = io.BytesIO()
        image.save(buffer, name, **options, **(more if frames > 1 else {}))
        return buffer.getvalue()

    return make


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(depth: int, colour: int, *, interlaced: bool = False, before: bytes = b"") -> Make:
    """Makes PNGs of any depth and colour type, with chunks before the picture."""

    def make(width: int, height: int) -> bytes:
        bits = _CHANNELS[colour] * depth
        squeeze, parts = zlib.compressobj(1), []
        for x, y, dx, dy in _PASSES if interlaced else ((0, 0, 1, 1),):
            across, down = -(-(width - x) // dx), -(-(height - y) // dy)
            row = (
                bytes(1)
                + np.resize(np.arange(251, dtype=np.uint8), -(-across * bits // 8)).tobytes()
            )
            parts += [squeeze.compress(row) for _ in range(down)]
        body = b"".join((*parts, squeeze.flush()))
        head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
        palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
        start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette
        return start + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    return make


def tiff(
    bits: int,
    samples: int,
    *,
    deflated: bool = True,
    rows: int | None = None,
    tile: int | None = None,
    planar: bool = False,
    orientation: int = 1,
    tags: int = 0,
    tag_bytes: int = 0,
) -> Make:
    """Makes TIFFs of zeros in strips of so many rows (one by default) or in square tiles, with
    further tags that all point to the same bytes."""

    def make(width: int, height: int) -> bytes:
        def block(pixels: int) -> bytes:
            size = pixels * bits // 8 * (1 if planar else samples)
            return zlib.compress(bytes(size), 1) if deflated else bytes(size)

        if tile:
            blocks = [block(tile * tile)] * (-(-width // tile) * -(-height // tile))
        else:
            strip = rows or height
            whole, rest = divmod(height, strip)
            blocks = [block(width * strip)] * whole + ([block(width * rest)] if rest else [])
        blocks *= samples if planar else 1
        places: dict[bytes, int] = {}
        body = bytearray(8)
        for content in blocks:
            if content not in places:
                places[content] = len(body)
                body += content
        offsets, sizes = [places[b] for b in blocks], [len(b) for b in blocks]
        short, long = "H", "I"
        fields = [
            (0x100, long, [width]),
            (0x101, long, [height]),
            (0x102, short, [bits] * samples),
            (0x103, short, [8 if deflated else 1]),
            (0x106, short, [2 if samples > 2 else 1]),
            (0x112, short, [orientation]),
            (0x115, short, [samples]),
            (0x11C, short, [2 if planar else 1]),
        ]
        if tile:
            fields += [(0x142, short, [tile]), (0x143, short, [tile])]
            fields += [(0x144, long, offsets), (0x145, long, sizes)]
        else:
            fields += [(0x111, long, offsets), (0x116, long, [strip]), (0x117, long, sizes)]
        if samples in (2, 4):
            fields.append((0x152, short, [2]))
        return _tiff_file(body, sorted(fields), tags=tags, tag_bytes=tag_bytes)

    return make


def _tiff_file(
    body: bytearray, fields: list[tuple[int, str, list[int]]], *, tags: int, tag_bytes: int
) -> bytes:
    entries = []
    for tag, kind, values in fields:
        content = struct.pack(f"<{len(values)}{kind}", *values)
        if len(content) > 4:
            content, place = struct.pack("<I", len(body)), content
            body += place
        head = struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(values))
        entries.append(head + content.ljust(4, b"\0"))
    entries += [struct.pack("<HHII", 0x9100 + n, 7, tag_bytes, 8) for n in range(tags)]
    body += bytes(max(0, tag_bytes - len(body)))
    body[:8] = b"II*\0" + struct.pack("<I", len(body))
    return bytes(body) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def bmp_of_runs(width: int, height: int) -> bytes:
    """A BMP in run-length code of 8 bits."""
    row = b"\xff\7" * (width // 255) + (bytes([width % 255, 9]) if width % 255 else b"") + bytes(2)
    body = row * height + b"\0\1"
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in range(256))
    start = 14 + 40 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + sizes + palette + body


def deep_avif(depth: int) -> Make:
    """Makes AVIFs of 10 or 12 bits."""

    def make(width: int, height: int) -> bytes:
        wide = picture(width, height).astype(np.uint16) << (depth - 8)
        settings = [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_SPEED, 10]
        return bytes(cv2.imencode(".avif", wide, settings)[1])

    return make


def with_scans(jpeg: bytes, more: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times more."""
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[start:end] * more + jpeg[end:]


@dataclass(frozen=True)
class Mode:
    """How files of a mode are made, and what a pixel takes in the way that takes least."""

    make: Make
    bytes_per_pixel: float
    files: int = 1  # how often its file is held
    most_pixels: float = 50e6


def fitting_size(mode: str, limit: int, *, share: float = 0.95) -> tuple[int, int]:
    """(width, height), 4:3 and within `most_pixels`, that takes this share of a limit in bytes."""
    sample = MODES[mode].make(400, 300)
    room = share * limit - (20 << 20)
    per_pixel = MODES[mode].bytes_per_pixel + MODES[mode].files * len(sample) / (400 * 300)
    height = math.isqrt(int(min(MODES[mode].most_pixels, room / per_pixel) * 3 / 4))
    return height * 4 // 3, height


MODES = {
    "jpeg 4:2:0": Mode(by_pillow("JPEG"), 0.4, files=2),
    "jpeg 4:4:4": Mode(by_pillow("JPEG", subsampling=0), 0.4, files=2),
    "jpeg progressive 4:2:0": Mode(by_pillow("JPEG", progressive=True), 3.2, files=2),
    "jpeg progressive 4:4:4": Mode(
        by_pillow("JPEG", progressive=True, subsampling=0), 6.2, files=2
    ),
    "jpeg progressive grey": Mode(by_pillow("JPEG", "L", progressive=True), 2.1, files=2),
    "jpeg cmyk": Mode(by_pillow("JPEG", "CMYK"), 4.2, files=2),
    "jpeg progressive cmyk": Mode(by_pillow("JPEG", "CMYK", progressive=True), 12.0, files=2),
    "png grey": Mode(png(8, 0), 1.2),
    "png 1 bit": Mode(png(1, 0), 1.2),
    "png palette": Mode(png(8, 3), 1.2),
    "png rgb": Mode(png(8, 2), 4.2),
    "png rgba": Mode(png(8, 6), 4.2),
    "png grey 16": Mode(png(16, 0), 2.2),
    "png grey alpha 16": Mode(png(16, 4), 4.2),
    "png rgb 16": Mode(png(16, 2), 4.2),
    "png rgba 16": Mode(png(16, 6), 4.2),
    "png rgb interlaced": Mode(png(8, 2, interlaced=True), 4.2),
    "png rgba 16 interlaced": Mode(png(16, 6, interlaced=True), 4.2),
    "png rgb, a colour transparent": Mode(png(8, 2, before=chunk(b"tRNS", bytes(6))), 4.2),
    "tiff plain": Mode(tiff(8, 3, deflated=False, rows=16), 4.2),
    "tiff deflate": Mode(tiff(8, 3, rows=16), 4.2),
    "tiff deflate, one strip": Mode(tiff(8, 3), 7.0),
    "tiff deflate 16, one strip": Mode(tiff(16, 3), 10.0),
    "tiff deflate rgba 16, one strip": Mode(tiff(16, 4), 12.0),
    "tiff deflate grey 16, one strip": Mode(tiff(16, 1), 4.0),
    "tiff deflate 16, tiles": Mode(tiff(16, 3, tile=256), 4.3),
    "tiff deflate, planes": Mode(tiff(8, 3, rows=16, planar=True), 4.2),
    "tiff deflate, one strip a plane": Mode(tiff(8, 3, planar=True), 5.0),
    "tiff turned": Mode(tiff(8, 3, rows=16, orientation=6), 8.0),
    "tiff lzw": Mode(by_pillow("TIFF", compression="tiff_lzw"), 4.2),
    "tiff jpeg": Mode(by_pillow("TIFF", compression="jpeg"), 4.3),
    "tiff group 4": Mode(by_pillow("TIFF", "1", compression="group4"), 1.3),
    "webp lossy": Mode(by_pillow("WEBP", quality=30, method=0), 6.3),
    "webp lossy with alpha": Mode(by_pillow("WEBP", "RGBA", quality=30, method=0), 8.3),
    "webp lossless": Mode(by_pillow("WEBP", lossless=True, quality=0, method=0), 8.3),
    "webp animated": Mode(by_pillow("WEBP", quality=10, method=0, frames=2), 16.5, files=3),
    "gif": Mode(by_pillow("GIF", "P"), 2.2),
    "gif animated": Mode(by_pillow("GIF", "P", frames=2), 2.2),
    "bmp": Mode(by_pillow("BMP"), 4.2),
    "bmp of runs": Mode(bmp_of_runs, 3.0, most_pixels=18e6),
    "avif 4:2:0": Mode(by_pillow("AVIF", quality=30, speed=10), 10.1, files=2),
    "avif 4:4:4": Mode(by_pillow("AVIF", quality=30, speed=10, subsampling="4:4:4"), 11.6, files=2),
    "avif with alpha": Mode(by_pillow("AVIF", "RGBA", quality=30, speed=10), 11.1, files=2),
    "avif 10 bit": Mode(deep_avif(10), 11.6, files=2),
    "avif 12 bit": Mode(deep_avif(12), 11.6, files=2),
}
