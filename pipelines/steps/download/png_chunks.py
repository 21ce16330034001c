"""A PNG's chunks, and the file without those that are no part of its picture."""

import struct
from collections.abc import Iterator

from pipelines.steps.download.image_rejected import ImageRejected

_SIGNATURE_BYTES = 8
_AROUND_CONTENT = 12  # length, name and checksum of a chunk
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"sPLT", b"hIST", b"tIME")
_MAX_CHUNKS = 65_536  # libpng writes one for each 8 KiB


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start, end) of each chunk, as far as it is there, and of what lies behind the
    last, under the name b"".

    Raises:
        ImageRejected: `too_many_parts`.
    """
    position, name = _SIGNATURE_BYTES, b""
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data) or name == b"IEND":
            yield b"", position, len(data)
            return
        (length,) = struct.unpack_from(">I", data, position)
        name, end = data[position + 4 : position + 8], position + _AROUND_CONTENT + length
        yield name, position, min(end, len(data))
        position = end
    raise ImageRejected("too_many_parts", f"a PNG of over {_MAX_CHUNKS} chunks")


def without_metadata(data: bytes) -> bytes:
    """The file without texts, profile, histogram and time: those may be damaged, or larger unpacked
    than a reader allows, and the pixels fine. EXIF stays, for its orientation."""
    view = memoryview(data)
    kept = (view[start:end] for name, start, end in chunks(data) if name not in _METADATA)
    return b"".join((view[:_SIGNATURE_BYTES], *kept))
