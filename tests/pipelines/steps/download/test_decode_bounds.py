"""What an original may take is judged by its header and bytes: never by this machine."""

import math
import time

import numpy as np
import pytest
from PIL import Image

from pipelines.steps.download.decode import crop_pixels, decode_to_crop
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.header import read_header
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from pipelines.steps.download.jpeg_header import count_scans
from tests.pipelines.steps.download import drawn
from tests.pipelines.steps.download.child_memory import decode_and_measure
from tests.pipelines.steps.download.large_images import MODES, by_pillow, chunk, png, tiff
from tests.pipelines.steps.download.large_images import with_scans

# The figures of a pixel hold at any limit, so that small pictures show what large ones would do;
# tests/hostile has those.
SMALL = ImageConfig(max_memory_bytes=96 << 20)
BESIDE = 20 << 20
CHEAP = [
    "jpeg progressive 4:4:4",
    "jpeg progressive cmyk",
    "png rgb 16",
    "png rgb interlaced",
    "tiff deflate rgba 16, one strip",
    "tiff deflate, one strip",
    "tiff lzw",
    "webp lossless",
    "webp lossy",
    "webp animated",
    "gif",
    "avif 4:4:4",
]


def _reason(data: bytes, config: ImageConfig) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode_to_crop(data, config)
    return caught.value.reason


@pytest.fixture(scope="module")
def decoder():
    with DecoderProcess(SMALL) as running:
        yield running


@pytest.mark.parametrize("mode", CHEAP)
def test_what_is_decoded_stays_under_the_limit(mode: str, decoder: DecoderProcess) -> None:
    make, bytes_per_pixel = MODES[mode]
    room = SMALL.max_memory_bytes - BESIDE
    sample = make(400, 300)
    bytes_per_pixel += 3 * len(sample) / (400 * 300)  # the file itself
    height = math.isqrt(int(0.9 * room / bytes_per_pixel * 3 / 4))
    found = decode_and_measure(decoder, make(height * 4 // 3, height))
    assert found.result.reason is None, found.result.error_message
    assert found.peak_mib <= 96


@pytest.mark.parametrize("mode", CHEAP)
def test_what_would_need_more_is_refused_before_a_decoder_is_started(mode: str) -> None:
    make, bytes_per_pixel = MODES[mode]
    data = make(1200, 900)
    limit = max(64 << 20, BESIDE + int(0.7 * bytes_per_pixel * 1200 * 900))
    ...
