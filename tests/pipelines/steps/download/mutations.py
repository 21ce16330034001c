"""Broken files by the hundred, the same ones for a seed: each made of a good file by one change."""

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.pipelines.steps.download import drawn, odd_jpegs

Dice = random.Random

_SIZES = (0, 1, 7, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
# Where a file says how large its picture is: struct format and offset of two numbers.
_SIZE_FIELDS = {
    b"\x89PNG": (">I", 16),
    b"GIF8": ("<H", 6),
    b"BM": ("<I", 18),
    b"RIFF": ("<H", 24),
}


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A broken file and how it was made."""

    name: str
    data: bytes


def drawn_originals() -> dict[str, bytes]:
    """Good files of every format and coding, large enough to be decoded scaled at 32 pixels."""
    image = Image.fromarray(np.asarray(drawn.noise(300)[:200, :264]))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "baseline.jpg": ("JPEG", "RGB", {"quality": 90, "exif": exif}),
        "restarts.jpg": ("JPEG", "RGB", {"restart_marker_rows": 2, "subsampling": 0}),
        "progressive.jpg": ("JPEG", "RGB", {"progressive": True}),
        "grey.jpg": ("JPEG", "L", {}),
        "cmyk.jpg": ("JPEG", "CMYK", {}),
        "rgb.png": ("PNG", "RGB", {}),
        "palette.png": ("PNG", "P", {"transparency": 3}),
        "alpha.png": ("PNG", "RGBA", {}),
        "lossy.webp": ("WEBP", "RGB", {"exif": exif}),
        "lossless.webp": ("WEBP", "RGBA", {"lossless": True}),
        "palette.gif": ("GIF", "P", {}),
        "plain.bmp": ("BMP", "RGB", {}),
        "raw.tiff": ("TIFF", "RGB", {}),
        "lzw.tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        "deflate.tiff": ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tiff": ("TIFF", "RGB", {"compression": "jpeg"}),
        "fax.tiff": ("TIFF", "1", {"compression": "group4"}),
        "plain.avif": ("AVIF", "RGB", {"speed": 10}),
    }
    files = {
        name: drawn.saved(image.convert(mode), kind, **options)
        for name, (kind, mode, options) in kinds.items()
    }
    small = np.asarray(image)[:96, :96]
    files["lossless.jpg"] = odd_jpegs.lossless_jpeg(small)
    files["lossless-grey.jpg"] = odd_jpegs.lossless_jpeg(small[:, :, :1])
    files["arithmetic.jpg"] = odd_jpegs.ARITHMETIC
    return files


def mutations(originals: Mapping[str, bytes], count: int, *, seed: int) -> Iterator[Mutation]:
    """`count` broken files; every kind of change on every kind of file in turn."""
    dice = random.Random(seed)
    names = sorted(originals)
    for number in range(count):
        name = names[number % len(names)]
        kinds = _CHANGES + (_JPEG_CHANGES if name.endswith(".jpg") else ())
        change = kinds[(number // len(names)) % len(kinds)]
        try:
            data = change(originals[name], dice)
        except (struct.error, IndexError, ValueError):  # too broken already for this one
            data = _cut(originals[name], dice)
        yield Mutation(name=f"{number} {name} {change.__name__.strip('_')}", data=data)


def _cut(data: bytes, dice: Dice) -> bytes:
    return data[: dice.randrange(2, len(data))]


def _cut_near_the_end(data: bytes, dice: Dice) -> bytes:
    return data[: -dice.randrange(1, min(len(data) - 2, 60))]


def _bits_flipped(data: bytes, dice: Dice) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _header_bytes_changed(data: bytes, dice: Dice) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(4, min(len(changed), 120))] = dice.randrange(256)
    return bytes(changed)


def _zeros_within(data: bytes, dice: Dice) -> bytes:
    begin = dice.randrange(2, len(data))
    length = dice.randint(1, 200)
    return data[:begin] + bytes(len(data[begin : begin + length])) + data[begin + length :]


def _a_slice_twice(data: bytes, dice: Dice) -> bytes:
    begin = dice.randrange(2, len(data))
    end = min(len(data), begin + dice.randint(1, 400))
    return data[:end] + data[begin:end] + data[end:]


def _a_slice_removed(data: bytes, dice: Dice) -> bytes:
    begin = dice.randrange(2, len(data))
    return data[:begin] + data[begin + dice.randint(1, 40) :]


def _other_size(data: bytes, dice: Dice) -> bytes:
    if data[:2] == b"\xff\xd8":
        height, width = (dice.choice((None, *_SIZES[:5])) for _ in range(2))
        return odd_jpegs.with_frame(data, height=height, width=width)
    kind = next((kind for kind in _SIZE_FIELDS if data.startswith(kind)), None)
    changed = bytearray(data)
    if kind is None:  # a number somewhere in a TIFF or AVIF
        at = dice.randrange(8, len(data) - 4) if data[4:8] != b"ftyp" else data.index(b"ispe") + 8
        struct.pack_into(">I", changed, at, dice.choice(_SIZES))
        return bytes(changed)
    code, at = _SIZE_FIELDS[kind]
    at += struct.calcsize(code) * dice.randrange(2)
    largest = (1 << 8 * struct.calcsize(code)) - 1
    struct.pack_into(code, changed, at, min(dice.choice(_SIZES), largest))
    if kind == b"\x89PNG":
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    return bytes(changed)


def _other_frame(data: bytes, dice: Dice) -> bytes:
    return odd_jpegs.with_frame(data, number=dice.choice((0, 1, 2, 3, 5, 6, 7, *range(9, 16))))


def _other_samples(data: bytes, dice: Dice) -> bytes:
    if dice.random() < 0.5:
        return odd_jpegs.with_frame(data, bit_depth=dice.choice((0, 2, 7, 12, 16, 255)))
    return odd_jpegs.with_frame(data, channels=dice.choice((0, 1, 2, 3, 4, 5, 255)))


def _other_sampling(data: bytes, dice: Dice) -> bytes:
    changed, at = bytearray(data), odd_jpegs.frame_at(data)
    for component in range(data[at + 9]):
        changed[at + 11 + 3 * component] = dice.choice((0x11, 0x21, 0x12, 0x22, 0x41, 0x44, 0x31))
    return bytes(changed)


def _a_segment_moved(data: bytes, dice: Dice) -> bytes:
    segments, rest = odd_jpegs.split(data)
    segments.insert(dice.randrange(len(segments)), segments.pop(dice.randrange(len(segments))))
    return odd_jpegs.joined(segments, rest)


def _a_segment_twice(data: bytes, dice: Dice) -> bytes:
    segments, rest = odd_jpegs.split(data)
    segments.insert(dice.randrange(len(segments)), dice.choice(segments))
    return odd_jpegs.joined(segments, rest)


def _a_segment_removed(data: bytes, dice: Dice) -> bytes:
    segments, rest = odd_jpegs.split(data)
    del segments[dice.randrange(len(segments))]
    return odd_jpegs.joined(segments, rest)


def _a_length_off(data: bytes, dice: Dice) -> bytes:
    segments, _ = odd_jpegs.split(data)
    at = 2 + sum(4 + len(content) for _, content in segments[: dice.randrange(len(segments))])
    changed = bytearray(data)
    (length,) = struct.unpack_from(">H", data, at + 2)
    other = dice.choice((0, 1, 2, max(0, length - 1), length + 1, length + 64, 0xFFFF))
    struct.pack_into(">H", changed, at + 2, min(other, 0xFFFF))
    return bytes(changed)


def _frame_of(segments: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    return next(found for found in segments if found[0] in odd_jpegs.FRAME_MARKERS)


def _a_second_frame(data: bytes, dice: Dice) -> bytes:
    """A frame of another size and kind: before the first, after it, or in the midst of the scan."""
    segments, rest = odd_jpegs.split(data)
    marker, content = _frame_of(segments)
    other = bytearray(content)
    struct.pack_into(">HH", other, 1, dice.choice((8, 32, 2000)), dice.choice((8, 32, 2000)))
    frame = (0xC0 + dice.choice((0, 1, 2, 3, 9)), bytes(other))
    if dice.random() < 0.3:
        half = len(rest) // 2
        return odd_jpegs.joined(segments, rest[:half]) + odd_jpegs.segment(*frame) + rest[half:]
    at = segments.index((marker, content)) + dice.randrange(2)
    return odd_jpegs.joined([*segments[:at], frame, *segments[at:]], rest)


def _a_hierarchy(data: bytes, dice: Dice) -> bytes:
    segments, rest = odd_jpegs.split(data)
    number, content = _frame_of(segments)
    at = segments.index((number, content))
    segments.insert(at, (0xDE, content))  # DHP: what follows are several frames
    if dice.random() < 0.5:
        segments[at + 1] = (0xC5 + dice.randrange(3), content)
    return odd_jpegs.joined(segments, rest)


_Change = Callable[[bytes, Dice], bytes]
_CHANGES: tuple[_Change, ...] = (
    _cut,
    _cut_near_the_end,
    _bits_flipped,
    _header_bytes_changed,
    _zeros_within,
    _a_slice_twice,
    _a_slice_removed,
    _other_size,
)
_JPEG_CHANGES: tuple[_Change, ...] = (
    _other_frame,
    _other_frame,
    _other_samples,
    _other_sampling,
    _a_segment_moved,
    _a_segment_twice,
    _a_segment_removed,
    _a_length_off,
    _a_second_frame,
    _a_hierarchy,
)
