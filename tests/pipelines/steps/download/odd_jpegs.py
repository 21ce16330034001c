"""JPEGs that no ordinary encoder writes: lossless ones, other frame types, other sample sizes."""

import base64
import struct

import numpy as np
from numpy.typing import NDArray

# 64 x 48 of `drawn.quarters`, arithmetic codes (SOF9), 4:4:4; by an encoder that Pillow and OpenCV
# lack.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4R"
    "DgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU"
    "FBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAwAEADAREAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIR"
    "AxEAPwD/ANH057/aycFY7xg3k3SXcsB46VVdxBeUi6SMxKj7iUjkEwdJ4ucVpKZBQ8xrTBqnWrIzjjyefi2sHo6+"
    "vD7InDQJ94D/2Q=="
)

FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_CATEGORIES = 9  # sizes of a difference of two bytes: 0 to 8 bits
_CODE_BITS = 4  # one Huffman code for each, 0000 to 1000


def lossless_jpeg(pixels: NDArray[np.uint8], *, bit_depth: int = 8) -> bytes:
    """A lossless JPEG (SOF3, Huffman codes), each sample predicted by its left neighbour.

    Args:
        pixels: [height, width, channels]; their values are written as they are.
        bit_depth: what the header claims of a sample.
    """
    height, width, channels = pixels.shape
    names = [ord(name) for name in "RGB"[:channels]] if channels == 3 else list(range(1, 5))
    names = names[:channels]
    frame = struct.pack(">BHHB", bit_depth, height, width, channels)
    frame += b"".join(bytes((name, 0x11, 0)) for name in names)
    table = bytes([0, *(_CATEGORIES if bits == _CODE_BITS else 0 for bits in range(1, 17))])
    table += bytes(range(_CATEGORIES))
    scan = bytes([channels, *(value for name in names for value in (name, 0)), 1, 0, 0])
    coded = _coded(pixels, first=1 << (bit_depth - 1))
    return (
        b"\xff\xd8"
        + segment(0xC3, frame)
        + segment(0xC4, table)
        + segment(0xDA, scan)
        + coded
        + b"\xff\xd9"
    )


def _coded(pixels: NDArray[np.uint8], *, first: int) -> bytes:
    values = pixels.astype(np.int64)
    predicted = np.empty_like(values)
    predicted[:, 1:] = values[:, :-1]
    predicted[1:, 0] = values[:-1, 0]
    predicted[0, 0] = first
    bits = []
    for difference in (values - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        extra = difference if difference >= 0 else difference + (1 << size) - 1
        bits.append(f"{size:04b}" + (f"{extra:0{size}b}" if size else ""))
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def segment(marker: int, content: bytes) -> bytes:
    """A marker segment with its length."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def split(jpeg: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """(marker, content) of the segments before the first scan, and the rest, from the scan on."""
    segments, position = [], 2
    while jpeg[position + 1] != 0xDA:
        marker, length = struct.unpack_from(">xBH", jpeg, position)
        segments.append((marker, jpeg[position + 4 : position + 2 + length]))
        position += 2 + length
    return segments, jpeg[position:]


def joined(segments: list[tuple[int, bytes]], rest: bytes) -> bytes:
    """The file that `split` took apart."""
    return b"\xff\xd8" + b"".join(segment(marker, data) for marker, data in segments) + rest


def frame_at(jpeg: bytes) -> int:
    """Where the marker of the first frame header stands."""
    position = 2
    while jpeg[position + 1] not in FRAME_MARKERS:
        position += 2 + int(struct.unpack_from(">H", jpeg, position + 2)[0])
    return position


def with_frame(
    jpeg: bytes,
    *,
    number: int | None = None,
    bit_depth: int | None = None,
    height: int | None = None,
    width: int | None = None,
    channels: int | None = None,
) -> bytes:
    """The file with another claim in its frame header; the rest is left as it is."""
    changed, at = bytearray(jpeg), frame_at(jpeg)
    if number is not None:
        changed[at + 1] = 0xC0 + number
    if bit_depth is not None:
        changed[at + 4] = bit_depth
    if height is not None:
        struct.pack_into(">H", changed, at + 5, height)
    if width is not None:
        struct.pack_into(">H", changed, at + 7, width)
    if channels is not None:
        changed[at + 9] = channels
    return bytes(changed)
