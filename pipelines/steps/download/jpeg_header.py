"""What a JPEG's segments say before its first scan: the frame, and the EXIF orientation."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.steps.download.image_rejected import ImageRejected

MAX_STEPS = 10_000  # segments, chunks or boxes; real files have tens

_START_OF_FRAME = 0xC0
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # without DHT, JPG and DAC
_OTHER_CODINGS = {0xDE: "hierarchical JPEG", 0xDF: "hierarchical JPEG", 0xF7: "JPEG-LS"}


@dataclass(frozen=True, kw_only=True)
class JpegFrame:
    """The frame header; `number` is n of its marker SOFn, sizes are in pixels as stored."""

    number: int
    bit_depth: int
    width: int
    height: int
    channels: int
    orientation: int  # EXIF's, 1 to 8


def read_jpeg_frame(data: bytes) -> JpegFrame:
    """The one frame header before the first scan, as every decoder of ours finds it.

    What lies within a segment, a thumbnail's frame say, is not looked at.

    Raises:
        ImageRejected: `image_unreadable` without a frame or with two, `format_unsupported` for
            codings that no decoder of ours knows.
        IndexError, struct.error: the data end before there is a frame.
    """
    found: tuple[int, int] | None = None
    exif: list[bytes] = []
    try:
        for marker, start, length in _segments(data):
            if marker in _FRAME_MARKERS:
                if found is not None:
                    raise ImageRejected("image_unreadable", "JPEG with two frame headers")
                found = marker, start
            elif marker in _OTHER_CODINGS:
                raise ImageRejected("format_unsupported", f"a {_OTHER_CODINGS[marker]}")
            elif marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
                exif.append(data[start + 6 : start + length])
    except (IndexError, struct.error):
        if found is None:
            raise
    if found is None:
        raise ImageRejected("image_unreadable", "JPEG without a frame header")
    marker, start = found
    bit_depth, height, width, channels = struct.unpack_from(">BHHB", data, start)
    return JpegFrame(
        number=marker - _START_OF_FRAME,
        bit_depth=bit_depth,
        width=width,
        height=height,
        channels=channels,
        orientation=exif_orientation(b"".join(exif)),  # one block may span several segments
    )


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (marker, start of its content, length of its content) up to the first scan."""
    position = 2
    for _ in range(MAX_STEPS):
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError("no further marker")
        while data[position] == 0xFF:  # any number of fill bytes
            position += 1
        marker = data[position]
        position += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xD9, 0xDA):
            return
        (length,) = struct.unpack_from(">H", data, position)
        yield marker, position + 2, max(0, length - 2)
        position += max(2, length)


def exif_orientation(tiff: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block's first directory; 1 when it says nothing sane."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(min(count, 512)):
            tag, kind = struct.unpack_from(order + "HH", tiff, directory + 2 + 12 * entry)
            if tag == 0x0112 and kind == 3:
                (value,) = struct.unpack_from(order + "H", tiff, directory + 10 + 12 * entry)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
