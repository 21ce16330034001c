"""What a TIFF's first directory says: the size, and what its reader will have to hold."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pipelines.steps.download.image_rejected import ImageRejected

_MAX_ENTRIES = 4096  # real directories have tens
_KIND_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION = 0x0100, 0x0101, 0x0102, 0x0103
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP = 0x0111, 0x0112, 0x0115, 0x0116
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = 0x011C, 0x0142, 0x0143, 0x0144
_BLOCKS = (_STRIP_OFFSETS, _TILE_OFFSETS)
_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_SHAPE = (_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _ROWS_PER_STRIP, _PLANAR)
_READ = frozenset((*_SHAPE, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT, *_DIRECTORIES))


@dataclass(frozen=True, kw_only=True)
class TiffDirectory:
    """Sizes in pixels as stored; a block is a strip or a tile."""

    width: int
    height: int
    bit_depth: int
    samples: int
    compression: int
    orientation: int
    block_pixels: int
    block_bytes: int  # unpacked
    num_blocks: int
    tag_bytes: int  # of all values that do not fit into their entries, EXIF's and GPS's too


def read_tiff_directory(data: bytes) -> TiffDirectory:
    """The first directory of a classic TIFF.

    Raises:
        ImageRejected: `too_many_parts`.
        struct.error: the data end before it does.
    """
    order = _order(data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    if count > _MAX_ENTRIES:
        raise ImageRejected("too_many_parts", f"a TIFF whose directory has {count} tags")
    found: dict[int, int] = {}
    num_blocks = 0
    for tag, kind, number, at in _entries(data, order, start):
        if tag in _BLOCKS:
            num_blocks = max(num_blocks, number)
        elif tag in _READ:
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at)
    starts = (start, *(found[tag] for tag in _DIRECTORIES if tag in found))
    tag_bytes = sum(_outside_bytes(data, begin) for begin in starts)
    return _directory(found, num_blocks=num_blocks, tag_bytes=tag_bytes)


def exif_bytes(exif: bytes) -> int:
    """What a reader copies of an EXIF block: its entries may all point to the same bytes, and then
    it is a multiple of the block."""
    tiff = exif.removeprefix(b"Exif\0\0")
    with suppress(struct.error):
        return _outside_bytes(tiff, struct.unpack_from(_order(tiff) + "I", tiff, 4)[0])
    return 0


def _outside_bytes(tiff: bytes, start: int) -> int:
    """Of one directory, the values that do not fit into their entries."""
    total = 0
    with suppress(struct.error):
        for _, kind, number, _ in _entries(tiff, _order(tiff), start):
            size = number * _KIND_BYTES.get(kind, 0)
            total += min(size, len(tiff)) if size > 4 else 0
    return total


def _order(tiff: bytes) -> str:
    return "<" if tiff[:2] == b"II" else ">"


def _directory(found: dict[int, int], *, num_blocks: int, tag_bytes: int) -> TiffDirectory:
    width, height = found.get(_WIDTH, 0), found.get(_HEIGHT, 0)
    samples, bits = found.get(_SAMPLES, 1), found.get(_BITS, 1)
    across = found.get(_TILE_WIDTH, width)
    down = found.get(_TILE_HEIGHT, min(height, found.get(_ROWS_PER_STRIP, height)))
    together = 1 if found.get(_PLANAR) == 2 else samples
    return TiffDirectory(
        width=width,
        height=height,
        bit_depth=bits,
        samples=samples,
        compression=found.get(_COMPRESSION, 1),
        orientation=found.get(_ORIENTATION, 1),
        block_pixels=across * down,
        block_bytes=-(-across * bits * together // 8) * down,
        num_blocks=num_blocks,
        tag_bytes=tag_bytes,
    )


def _entries(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields (tag, kind, number of values, where they are) of a directory."""
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from(order + "HHI", tiff, entry)
        at = entry + 8
        if number * _KIND_BYTES.get(kind, 0) > 4:
            (at,) = struct.unpack_from(order + "I", tiff, at)
        yield tag, kind, number, at
