"""Every file of the shared bad files gives the right pixels or the right reason, in its bounds.

The colours were checked against Pillow's whole decode, transposed, on white, and looked at.
Where `decoder_behaviour.json` says that Pillow decoded and we refuse:
- two PNGs whose end is missing or broken are refused, as OpenCV refuses them;
- formats we do not take: ICO, HEIC, SVG.
Where it says that Pillow refused and we decode: two PNGs with a broken profile and endless texts.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.image_config import ImageConfig
from tests.pipelines.steps.download.child_memory import memory_mib

# A reason, or the size as shown (width, height) and the mean colour of the square.
Shown = tuple[int, int, tuple[int, int, int]]
EXPECTED: dict[str, str | Shown] = {
    "image__0x0.tiff": "image_unreadable",
    "image__gopher-doc.1bpp.lossless.webp": (75, 100, (225, 225, 225)),
    "image__invalid-palette-ref.tiff": "image_unreadable",
    "image__video-001-16bit.tiff": (150, 103, (156, 104, 80)),
    "libvips__17000x17000.avif": "too_many_pixels",
    "libvips__3.jpg": (308, 410, (99, 103, 84)),
    "libvips__6.jpg": (231, 308, (99, 104, 84)),
    "libvips__avif-orientation-6.avif": (3024, 4032, (141, 116, 87)),
    "libvips__big-height.webp": (13, 169, (255, 0, 0)),
    "libvips__indexed.png": (290, 442, (111, 106, 107)),
    "libvips__truncated.jpg": "image_truncated",
    "pillow__app13-multiple.jpg": (256, 160, (129, 123, 104)),
    "pillow__broken.png": "image_unreadable",
    "pillow__broken_data_stream.png": "image_unreadable",
    "pillow__decompression_bomb.gif": "too_many_pixels",
    "pillow__exif_typeerror.jpg": (800, 531, (160, 159, 142)),
    "pillow__flower.webp": (480, 360, (119, 133, 94)),
    "pillow__hopper.gif": (128, 128, (90, 80, 95)),
    "pillow__hopper.ico": "format_unsupported",
    "pillow__hopper.webp": (128, 128, (90, 80, 96)),
    "pillow__hopper_16bit_qtables.jpg": (128, 128, (90, 80, 95)),
    "pillow__hopper_bad_exif.jpg": (500, 500, (125, 125, 125)),
    "pillow__hopper_gray.jpg": (128, 128, (85, 85, 85)),
    "pillow__hopper_idat_after_image_end.png": (128, 128, (90, 80, 95)),
    "pillow__hopper_orientation_2.jpg": (128, 128, (90, 80, 95)),
    "pillow__hopper_orientation_3.jpg": (128, 128, (90, 80, 95)),
    "pillow__hopper_orientation_6.jpg": (128, 128, (90, 80, 95)),
    "pillow__hopper_orientation_6.webp": (128, 128, (90, 80, 96)),
    "pillow__hopper_orientation_8.jpg": (128, 128, (90, 80, 95)),
    "pillow__i_trns.png": (64, 64, (35, 35, 35)),
    "pillow__icc_profile_big.jpg": (425, 250, (61, 111, 171)),
    "pillow__invalid-exif.jpg": (200, 200, (92, 92, 92)),
    "pillow__iss634.gif": (245, 245, (135, 137, 90)),
    "pillow__l_trns.png": (64, 64, (124, 124, 124)),
    "pillow__mode_16bit.png": (128, 64, (255, 0, 0)),
    "pillow__no_palette.gif": (1, 1, (0, 0, 0)),
    "pillow__p_trns_single.png": (64, 64, (128, 176, 163)),
    "pillow__pil123p.png": (162, 150, (186, 184, 166)),
    "pillow__pil123rgba.png": (162, 150, (186, 184, 166)),
    "pillow__pil_sample_cmyk.jpg": (100, 100, (30, 5, 7)),
    "pillow__png_decompression_dos.png": (1, 1, (0, 0, 0)),
    "pillow__pngtest_bad.png.bin": "format_unsupported",
    "pillow__reallybig.bmp": "too_many_pixels",
    "pillow__rgb_trns.png": (64, 64, (128, 176, 163)),
    "pillow__shortfile.bmp": "image_truncated",
    "pillow__tRNS_null_1x1.png": (1, 1, (255, 255, 255)),
    "pillow__transparent.webp": (200, 150, (196, 185, 187)),
    "pillow__truncated_app14.jpg": (100, 100, (29, 5, 4)),
    "pillow__truncated_end_chunk.png": "image_truncated",
    "pillow__truncated_jpeg.jpg": "image_truncated",
    "pillow__ultrahdr.jpg": "image_truncated",
    "pillow__unknown_compression_method.png": (57, 57, (201, 182, 171)),
    "pillow_heif__200MP.heic": "format_unsupported",
    "pillow_heif__L_exif_xmp_iptc.heic": "format_unsupported",
    "pillow_heif__RGB_10__128x128.heif": "format_unsupported",
    "pillow_heif__arrow.heic": "format_unsupported",
    "pillow_heif__corrupted.heic": "format_unsupported",
    "scikit-image__chessboard_GRAY_U16.tif": (200, 200, (0, 0, 0)),
    "scikit-image__multipage_rgb.tif": "image_unreadable",
    "scikit-image__no_time_for_that_tiny.gif": (14, 25, (88, 94, 85)),
    "sharp__2569067123_aca715a2ee_o.jpg": (2725, 2225, (105, 78, 62)),
    "sharp__65536-uint32-limit.png": "too_many_pixels",
    "sharp__Channel_digital_image_CMYK_color.jpg": (500, 333, (104, 126, 106)),
    "sharp__Flag_of_the_Netherlands-16bit.png": (900, 600, (154, 118, 145)),
    "sharp__Landscape_1.jpg": (600, 450, (109, 106, 100)),
    "sharp__Landscape_6.jpg": (600, 450, (96, 93, 87)),
    "sharp__Portrait_8.jpg": (450, 600, (84, 89, 71)),
    "sharp__animated-loop-3.webp": (370, 285, (254, 254, 252)),
    "sharp__circle.svg": "format_unsupported",
    "sharp__corrupt-header.jpg": "image_truncated",
    "sharp__full-transparent.png": (300, 300, (255, 255, 255)),
    "sharp__gamma_dalai_lama_gray.jpg": (258, 222, (127, 127, 127)),
    "sharp__giant-image.jpg": "too_many_pixels",
    "sharp__rotating-squares.webp": (80, 80, (199, 216, 226)),
    "sharp__tbgn2c16.png": (32, 32, (167, 174, 169)),
    "sharp__truncated.jpg": "image_truncated",
    "sharp__truncated.png": "image_truncated",
}
UNCAPPED_ASPECT = 20.0  # libvips__big-height.webp is 13 x 169


@pytest.fixture(scope="module")
def badfiles(shared_data: Path) -> Path:
    return shared_data / "badfiles"


def test_every_bad_file_gives_its_pixels_or_its_reason_within_the_limit(badfiles: Path) -> None:
    config = ImageConfig(format="png", max_aspect=UNCAPPED_ASPECT)
    wrong = {}
    with DecoderProcess(config) as decoder:
        decoder.submit(b"").result()
        imports_mib = memory_mib(decoder.pid, "VmRSS")
        supervisor, peak_mib = decoder.supervisor_pid, 0.0
        for name, expected in EXPECTED.items():
            found = decoder.submit((badfiles / name).read_bytes()).result()
            if found.image is None:
                seen: str | Shown | None = found.reason
            else:
                peak_mib = max(peak_mib, memory_mib(decoder.pid, "VmHWM"))
                pixels = cv2.imdecode(np.frombuffer(found.image, np.uint8), cv2.IMREAD_UNCHANGED)
                assert pixels.shape == (512, 512, 3)
                assert pixels.dtype == np.uint8
                assert found.original_width is not None
                assert found.original_height is not None
                red, green, blue = (round(float(v)) for v in pixels.mean(axis=(0, 1))[::-1])
                seen = (found.original_width, found.original_height, (red, green, blue))
            if not _agree(seen, expected):
                wrong[name] = (seen, expected)
        assert decoder.supervisor_pid == supervisor, "a file killed the decoder"
    assert not wrong
    assert peak_mib - imports_mib < config.max_memory_bytes >> 20


def test_the_expectations_name_every_bad_file(badfiles: Path) -> None:
    behaviour = json.loads((badfiles / "decoder_behaviour.json").read_text(encoding="utf-8"))
    assert set(EXPECTED) == set(behaviour)


def _agree(seen: str | Shown | None, expected: str | Shown) -> bool:
    if isinstance(expected, str) or seen is None or isinstance(seen, str):
        return seen == expected
    near = all(abs(a - b) <= 2 for a, b in zip(seen[2], expected[2], strict=True))
    return seen[:2] == expected[:2] and near
