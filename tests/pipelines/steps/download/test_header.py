"""Formats and sizes are read from the first bytes, boundedly, whatever those bytes are."""

import random
import struct
from contextlib import suppress

import pytest
from PIL import Image

from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.header import check_size, read_header
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import exif_orientation
from tests.pipelines.steps.download import drawn

FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"]


def _picture(name: str) -> bytes:
    return drawn.saved(Image.fromarray(drawn.quarters(46, 30)), name)


def _reason(data: bytes) -> str:
    with pytest.raises(ImageRejected) as caught:
        read_header(data)
    return caught.value.reason


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_tells_its_name_and_size(name: str) -> None:
    header = read_header(_picture(name))
    assert (header.format, header.width, header.height) == (name.lower(), 46, 30)


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\0\0II*\0"}])
def test_every_kind_of_webp_tells_its_size(options: dict[str, object]) -> None:
    header = read_header(drawn.saved(Image.new("RGB", (46, 30)), "WEBP", **options))
    assert (header.width, header.height) == (46, 30)


def test_a_jpeg_tells_its_orientation_and_kind() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (46, 30))
    header = read_header(drawn.saved(image, "JPEG", exif=exif, progressive=True))
    assert (header.orientation, header.channels) == (6, 1)


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0" + b"\xff" * 40]
)
def test_a_broken_exif_block_means_no_rotation(block: bytes) -> None:
    assert exif_orientation(block) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!doctype html><html>not found</html>",
        b"\0\0\1\0\1\0\x10\x10",  # an icon
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"BM of a message, not a bitmap",
    ],
)
def test_what_is_no_picture_of_ours_is_unsupported(data: bytes) -> None:
    assert _reason(data) == "format_unsupported"


def test_a_gif_whose_frame_leaves_its_screen_counts_the_frame() -> None:
    data = bytearray(_picture("GIF"))
    frame = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[frame + 5 : frame + 9] = struct.pack("<HH", 60000, 60000)
    header = read_header(bytes(data))
    with pytest.raises(ImageRejected) as caught:
        check_size(header.width, header.height, ImageConfig())
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_ends_early_never_raises_anything_else(name: str) -> None:
    data = _picture(name)
    for length in range(min(len(data), 700)):
        with suppress(ImageRejected):
            read_header(data[:length])


def test_endless_headers_are_given_up() -> None:
    assert _reason(b"\xff\xd8\xff" + b"\xe1\0\2\xff" * 300_000) == "image_unreadable"
    assert _reason(b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\0" * 300_000) == "image_unreadable"


def test_changed_bytes_give_a_picture_or_a_reason_and_no_crash() -> None:
    dice = random.Random(7)
    originals = [_picture(name) for name in FORMATS]
    mutated = []
    for number in range(350):
        data = bytearray(originals[number % len(originals)])
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        mutated.append(bytes(data[: dice.choice([len(data), len(data), len(data) // 2])]))
    with DecoderProcess(ImageConfig(size=32)) as decoder:
        first = decoder.supervisor_pid
        results = [future.result() for future in [decoder.submit(data) for data in mutated]]
        assert decoder.supervisor_pid == first
    assert all((result.image is None) == (result.reason is not None) for result in results)
    assert 50 < sum(result.image is not None for result in results) < 330
