"""What an original may take is judged by its header and bytes: never by this machine."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.steps.download import raster
from pipelines.steps.download.decode import crop_pixels, decode_to_crop
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import count_scans
from tests.pipelines.steps.download import drawn
from tests.pipelines.steps.download.child_memory import decode_and_measure
from tests.pipelines.steps.download.large_images import (
    MODES,
    by_pillow,
    chunk,
    fitting_size,
    png,
    tiff,
    with_scans,
)

# The figures hold at any limit, so that small pictures show what large ones would do; tests/hostile
# has those, in every mode.
LIMIT = 96 << 20
CONFIG = ImageConfig(size=64)
MODES_HERE = [
    "jpeg progressive 4:4:4",
    "jpeg progressive cmyk",
    "png rgb 16",
    "png rgb interlaced",
    "tiff deflate rgba 16, one strip",
    "tiff lzw",
    "webp lossless",
    "webp animated",
    "gif",
    "avif 4:4:4",
]


@pytest.fixture(scope="module")
def decoder():
    with DecoderProcess(ImageConfig(size=128, max_memory_bytes=LIMIT)) as running:
        yield running


def _reason(data: bytes, config: ImageConfig = CONFIG) -> str | None:
    try:
        decode_to_crop(data, config)
    except ImageRejected as rejected:
        return rejected.reason
    return None


@pytest.mark.parametrize("mode", MODES_HERE)
def test_what_is_decoded_stays_within_the_limit(mode: str, decoder: DecoderProcess) -> None:
    data = MODES[mode].make(*fitting_size(mode, LIMIT))
    found = decode_and_measure(decoder, data)
    assert found.result.reason is None, found.result.error_message
    assert found.peak_mib <= LIMIT >> 20
    smaller = ImageConfig(size=128, max_memory_bytes=int(0.8 * LIMIT))
    assert _reason(data, smaller) == "decode_out_of_memory"


def _before(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


def _png_with(name: bytes, content: bytes, times: int = 1) -> bytes:
    return png(8, 2, before=chunk(name, content) * times)(120, 80)


def _gif_with(comment: bytes) -> bytes:
    gif = drawn.saved(Image.new("L", (64, 64)), "GIF")
    at = gif.index(b"\x2c")
    return gif[:at] + b"!\xfe" + comment + b"\0" + gif[at:]


JPEG, CMYK = by_pillow("JPEG")(120, 80), by_pillow("JPEG", "CMYK")(120, 80)
PROGRESSIVE = by_pillow("JPEG", progressive=True)(120, 80)
FILL = b"\xff" * 8_000_000
EXIF = b"\xff\xe1\xff\xffExif\0\0" + bytes(65_533 - 6)
MARKS = b"\xff\xe1\xff\xff" + b"\xff\xda?" * 21_844 + b"?"
BOMB = b"k\0\0" + zlib.compress(bytes(40_000_000), 9)
POINTERS = b"".join(struct.pack("<HHII", 0x9000 + n, 7, 900_000, 8) for n in range(5000))
EXIF_BOMB = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000) + POINTERS + bytes(900_000)
TURNED = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6" + bytes(7)
OTHER_HEADER = struct.pack(">IIBBBBB", 60, 60, 8, 2, 0, 0, 0)

KEPT = {
    "fill bytes": _before(JPEG, FILL),
    "fill bytes that Pillow would go through": _before(CMYK, FILL),
    "fill bytes that begin nothing": _before(JPEG, FILL + b"\0"),
    "EXIF in many segments": _before(CMYK, EXIF * 128),
    "200 scans": with_scans(PROGRESSIVE, 200),
    "marks of scans in metadata": _before(PROGRESSIVE, MARKS),
    "a text that unpacks to 40 MB": _png_with(b"zTXt", BOMB),
    "many texts": _png_with(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)), times=20),
    "a profile that unpacks to 40 MB": _png_with(b"iCCP", BOMB),
    "EXIF whose tags are one": _png_with(b"eXIf", EXIF_BOMB),
    "a comment of 4 MB": _gif_with((b"\xff" + bytes(255)) * 16_000),
}
REFUSED = {
    "scans": (with_scans(PROGRESSIVE, 500), "too_many_parts"),
    "segments": (_before(JPEG, b"\xff\xfe\0\2" * 20_000), "image_unreadable"),
    "chunks": (_png_with(b"abCd", b"", times=70_000), "too_many_parts"),
    "blocks": (_gif_with(b"\1a" * 300_000), "too_many_parts"),
    "tags": (tiff(8, 3, tags=5000, tag_bytes=8)(120, 80), "too_many_parts"),
    "tags that are one": (
        tiff(8, 3, tags=900, tag_bytes=900_000)(120, 80),
        "decode_out_of_memory",
    ),
    "tiles": (tiff(8, 3, tile=1, deflated=False)(300, 300), "too_many_parts"),
    "headers": (_png_with(b"IHDR", OTHER_HEADER), "image_unreadable"),
}


@pytest.mark.parametrize("name", KEPT)
def test_odd_bytes_around_a_picture_cost_little_and_not_the_picture(name, decoder) -> None:
    found = decode_and_measure(decoder, KEPT[name])
    assert found.result.reason is None, found.result.error_message
    assert found.peak_mib <= LIMIT >> 20
    assert found.cpu_s < 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_too_many_parts_is_refused_unread(name: str) -> None:
    data, reason = REFUSED[name]
    assert _reason(data) == reason


def test_scans_are_counted_and_not_what_looks_like_them() -> None:
    seven_more = with_scans(PROGRESSIVE, 7)
    assert count_scans(PROGRESSIVE, 100) == 10
    assert count_scans(seven_more, 100) == 17
    assert count_scans(seven_more, 12) == 13
    assert count_scans(KEPT["marks of scans in metadata"], 100) == 10
    assert count_scans(PROGRESSIVE + with_scans(PROGRESSIVE, 200), 100) == 10


@pytest.mark.parametrize("way", ["strips", "lean"])
@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("TIFF", "RGBA", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("WEBP", "RGB", {"quality": 80, "exif": TURNED}),
        ("WEBP", "RGBA", {"lossless": True, "exif": TURNED}),
    ],
)
def test_a_way_that_takes_less_gives_the_same_picture(
    name: str, mode: str, options: dict[str, bytes], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "lean" and name != "WEBP":
        pytest.skip("WebP alone has it")
    photo = Image.fromarray(drawn.noise(60)).resize((704, 528)).convert(mode)
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    data = drawn.saved(photo, name, **options)
    whole = crop_pixels(data, CONFIG)
    monkeypatch.setattr(raster, "choose_way", lambda *_, **__: way)
    less = crop_pixels(data, CONFIG)
    assert (whole.original_width, whole.original_height) == (
        less.original_width,
        less.original_height,
    )
    assert not np.array_equal(whole.pixels, less.pixels), "it went the same way"
    assert cv2.PSNR(whole.pixels, less.pixels) > 40
