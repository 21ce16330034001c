"""A PNG without what is no part of its picture."""

import struct

_SIGNATURE_BYTES = 8
_AROUND_CONTENT = 12  # length, name and checksum of a chunk
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"sPLT", b"hIST", b"tIME")


def without_metadata(data: bytes) -> bytes:
    """The file without texts, profile, histogram and time: those may be damaged, or larger unpacked
    than a reader allows, and the pixels fine. EXIF stays, for its orientation."""
    kept = [data[:_SIGNATURE_BYTES]]
    position = _SIGNATURE_BYTES
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + _AROUND_CONTENT + length
        if data[position + 4 : position + 8] not in _METADATA:
            kept.append(data[position:end])
        position = end
    kept.append(data[position:])
    return b"".join(kept)
