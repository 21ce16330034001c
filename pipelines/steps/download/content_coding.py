"""Content-Encoding undone, within bounds.

We ask for none (images do not compress), but servers and caches send what they have. Some name an
encoding that the bytes do not have: then the bytes are taken as they are.
"""

import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import brotli

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAX_CODINGS = 5
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16)))


class CodedTooLarge(Exception):
    """Decoded, the body is larger than allowed."""


class CodedCutOff(Exception):
    """The body ends before its encoding does."""


class CodedBroken(Exception):
    """The body begins in its encoding and does not go on in it."""


class _NotCoded(Exception):
    """The bytes are not of this encoding."""


def codings_of(words: Iterable[str]) -> tuple[str, ...]:
    """Those of the encodings named that can be undone, in the order applied."""
    return tuple(word for word in words if word in _DECODERS)


def decode(
    body: bytes,
    codings: tuple[str, ...],
    *,
    limit: int,
    is_plain: Callable[[bytes], bool],
) -> bytes:
    """The body without its encodings; unchanged from where it is not of the encoding named.

    Args:
        codings: As `codings_of` gives them.
        limit: Most bytes after any of them.
        is_plain: Whether bytes are an image; asked where an encoding has no mark of its own.

    Raises:
        CodedTooLarge, CodedCutOff, CodedBroken: see there.
    """
    if len(codings) > _MAX_CODINGS:
        raise CodedBroken(f"{len(codings)} encodings, one over the other")
    for coding in reversed(codings):
        try:
            body = _DECODERS[coding](body, limit)
        except _NotCoded:
            return body
        except CodedCutOff:
            if is_plain(body):
                return body
            raise
        if len(body) > limit:
            raise CodedTooLarge
    return body


def _gunzip(body: bytes, limit: int) -> bytes:
    if not body.startswith(_GZIP_MAGIC):
        raise _NotCoded
    try:
        return _each(_GZIP_MAGIC, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), body, limit)
    except zlib.error:
        raise CodedBroken from None


def _unzstd(body: bytes, limit: int) -> bytes:
    if not body.startswith(_ZSTD_MAGICS):
        raise _NotCoded
    try:
        return _each(_ZSTD_MAGICS, zstd.ZstdDecompressor, body, limit)
    except zstd.ZstdError:
        raise CodedBroken from None


def _each(
    magic: bytes | tuple[bytes, ...], new: Callable[[], Any], body: bytes, limit: int
) -> bytes:
    """Every member or frame, one after the other; what follows the last one is left out."""
    parts = []
    room = limit + 1
    while body.startswith(magic) and room > 0:
        member = new()
        parts.append(member.decompress(body, room))
        room -= len(parts[-1])
        if room > 0 and not member.eof:
            raise CodedCutOff
        body = member.unused_data if member.eof else b""
    return b"".join(parts)


def _inflate(body: bytes, limit: int) -> bytes:
    """With zlib's frame, as the standard has it, or without, as many servers do."""
    try:
        return _inflate_as(zlib.MAX_WBITS, body, limit)
    except zlib.error:
        pass
    try:
        return _inflate_as(-zlib.MAX_WBITS, body, limit)
    except zlib.error:
        raise _NotCoded from None


def _inflate_as(window_bits: int, body: bytes, limit: int) -> bytes:
    stream = zlib.decompressobj(window_bits)
    decoded = stream.decompress(body, limit + 1)
    if len(decoded) > limit:
        return decoded
    if not stream.eof:
        raise CodedCutOff
    if window_bits < 0 and stream.unused_data:  # bytes that only happen to begin like a stream
        raise zlib.error("more after the end")
    return decoded


def _unbrotli(body: bytes, limit: int) -> bytes:
    stream = brotli.Decompressor()
    parts = []
    size = 0
    try:
        while not stream.is_finished() and size <= limit:
            part = stream.process(body, output_buffer_limit=limit + 1 - size)
            body = b""
            parts.append(part)
            size += len(part)
            if not part and not stream.is_finished():
                raise CodedCutOff
    except brotli.error:
        raise _NotCoded from None
    return b"".join(parts)


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
