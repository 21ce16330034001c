"""The stored square: always the asked size in RGB8, upright, with the right colours."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.steps.download.decode import crop_pixels, decode_to_crop
from pipelines.steps.download.geometry import CropWindow, centre_window
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.download.image_rejected import ImageRejected
from sd_core.model.buckets import Bucket, BucketsConfig
from tests.pipelines.steps.download import drawn

CONFIG = ImageConfig(size=64, format="png")
SQUARE = Bucket(width=64, height=64)
CORNERS = [drawn.RED, drawn.GREEN, drawn.BLUE, drawn.YELLOW]
QUARTERS = Image.fromarray(drawn.quarters(120, 80))


def _reason(data: bytes, config: ImageConfig = CONFIG) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode_to_crop(data, config)
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("PNG", {}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 95}),
    ],
)
@pytest.mark.parametrize("size", [16, 64, 512])
def test_every_format_gives_the_asked_size_and_the_right_colours(name, options, size) -> None:
    crop = crop_pixels(drawn.saved(QUARTERS, name, **options), ImageConfig(size=size))
    assert crop.pixels.shape == (size, size, 3)
    assert crop.pixels.dtype == np.uint8
    assert drawn.near(drawn.corner_colours(crop.pixels), CORNERS, by=8)
    assert (crop.original_width, crop.original_height) == (120, 80)
    assert crop.original_format == name.lower()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(name: str, orientation: int) -> None:
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = QUARTERS if undo is None else QUARTERS.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    crop = crop_pixels(drawn.saved(stored, name, exif=exif), CONFIG)
    assert drawn.near(drawn.corner_colours(crop.pixels), CORNERS, by=12)
    assert (crop.original_width, crop.original_height) == (120, 80)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF"])
def test_other_colour_modes_become_rgb(mode: str, name: str) -> None:
    if (name, mode) in {("JPEG", "P"), ("JPEG", "1"), ("PNG", "CMYK")}:
        pytest.skip(f"{name} has no mode {mode}")
    wanted = QUARTERS.convert(mode).convert("RGB")
    crop = crop_pixels(drawn.saved(QUARTERS.convert(mode), name), ImageConfig(size=80))
    if mode == "1":  # dithered: compare the means of the quarters
        halves = np.asarray(wanted)[:40, 20:60], crop.pixels[:40, :40]
        assert abs(halves[0].mean() - halves[1].mean()) < 3
    else:
        found = drawn.corner_colours(crop.pixels)
        assert drawn.near(found, drawn.corner_colours(np.asarray(wanted)[:, 20:100]), by=8)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, axis=0)
    data = cv2.imencode(".png", ramp)[1].tobytes()
    pixels = crop_pixels(data, CONFIG).pixels
    assert np.array_equal(pixels[5, :, 0], np.rint(ramp[0] / 257).astype(np.uint8))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_is_scaled_and_not_clipped(channels: int) -> None:
    wide = np.full((64, 64, channels), 65535, np.uint16)
    wide[..., :3] = (30000, 10000, 50000)
    data = cv2.imencode(".png", wide)[1].tobytes()
    found = crop_pixels(data, CONFIG).pixels[10, 10]
    assert drawn.near([found.tolist()], [[195, 39, 117]], by=1)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_composited_on_white(name: str) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32] = (200, 0, 0, 255)
    rgba[:, 32:] = (0, 0, 100, 128)
    options = {"lossless": True} if name == "WEBP" else {}
    pixels = crop_pixels(drawn.saved(Image.fromarray(rgba), name, **options), CONFIG).pixels
    found = [pixels[32, 8].tolist(), pixels[32, 56].tolist()]
    assert drawn.near(found, [[200, 0, 0], [127, 127, 177]], by=1)


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    image = Image.new("RGB", (64, 64), (10, 10, 10))
    image.paste((90, 90, 90), (0, 0, 64, 32))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    colour = image.getpixel((0, 63))
    pixels = crop_pixels(drawn.saved(image, "PNG", transparency=colour), CONFIG).pixels
    assert drawn.near([pixels[60, 30].tolist(), pixels[4, 30].tolist()], [[255] * 3, [90] * 3])


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    later = [Image.new("RGB", (120, 80), colour) for colour in ("black", "white")]
    data = drawn.saved(QUARTERS, name, save_all=True, append_images=later)
    found = drawn.corner_colours(crop_pixels(data, CONFIG).pixels)
    assert drawn.near(found, CORNERS, by=12)


def test_nothing_but_pixels_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret place"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 0.0)
    data = drawn.saved(QUARTERS, "JPEG", exif=exif, icc_profile=b"a profile", comment=b"a comment")
    for name in ("jpg", "png", "webp"):
        stored = decode_to_crop(data, ImageConfig(size=64, format=name)).image
        for trace in (b"Exif", b"EXIF", b"secret", b"profile", b"comment", b"iCCP", b"eXIf"):
            assert trace not in stored


@pytest.mark.parametrize(("subsampling", "factors"), [("4:2:0", (2, 2)), ("4:4:4", (1, 1))])
def test_jpegs_are_stored_with_the_asked_subsampling(subsampling, factors) -> None:
    config = ImageConfig(size=64, subsampling=subsampling)
    stored = decode_to_crop(drawn.saved(QUARTERS, "PNG"), config).image
    frame = stored.index(b"\xff\xc0")
    assert (stored[frame + 11] >> 4, stored[frame + 11] & 15) == factors


def test_the_same_input_gives_the_same_bytes_whatever_came_before() -> None:
    photo = drawn.saved(Image.fromarray(drawn.noise(700)), "JPEG", quality=90)
    config = ImageConfig(size=128)
    first = decode_to_crop(photo, config).image
    decode_to_crop(drawn.saved(QUARTERS, "WEBP"), config)
    assert decode_to_crop(photo, config).image == first


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_a_cut_off_file_is_truncated_and_never_filled_with_grey(name, options, cut) -> None:
    data = drawn.saved(Image.fromarray(drawn.noise(160)), name, **options)
    assert _reason(data[: int(len(data) * cut)]) == "image_truncated"


def test_a_jpeg_cut_off_before_a_proper_end_marker_is_truncated() -> None:
    data = drawn.saved(Image.fromarray(drawn.noise(160)), "JPEG")
    assert _reason(data[: len(data) // 2] + b"\xff\xd9") == "image_truncated"


def test_stray_bytes_before_the_end_marker_of_a_jpeg_do_no_harm() -> None:
    data = drawn.saved(QUARTERS, "JPEG", quality=95)
    crop = crop_pixels(data[:-2] + bytes(10) + data[-2:], CONFIG)
    assert drawn.near(drawn.corner_colours(crop.pixels), CORNERS, by=8)


def test_a_corrupt_jpeg_is_refused() -> None:
    data = bytearray(drawn.saved(Image.fromarray(drawn.noise(160)), "JPEG"))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd3" * 20
    assert _reason(bytes(data)) in {"image_unreadable", "image_truncated"}


@pytest.mark.parametrize("colour_type", [2, 6])
def test_a_png_bomb_is_refused_by_its_header(colour_type: int) -> None:
    data = bytearray(drawn.png_of_nothing(300, 1, colour_type=colour_type))
    data[16:24] = (30000).to_bytes(4, "big") * 2
    assert _reason(bytes(data), ImageConfig()) == "too_many_pixels"


@pytest.mark.parametrize(("width", "height"), [(60000, 1), (1, 60000)])
def test_an_endless_strip_is_refused(width: int, height: int) -> None:
    assert _reason(drawn.png_of_nothing(width, height)) == "aspect_above_max"


def test_a_tiny_image_is_enlarged_from_its_square_alone() -> None:
    crop = crop_pixels(drawn.png_of_nothing(3, 2), ImageConfig(size=512))
    assert crop.pixels.shape == (512, 512, 3)
    assert crop.pixels.max() == 0


def test_a_side_below_the_minimum_is_refused() -> None:
    config = ImageConfig(min_side_px=81)
    assert _reason(drawn.saved(QUARTERS, "PNG"), config) == "image_too_small"


def test_no_message_quotes_the_input() -> None:
    for data in (b"SECRET" * 9, b"\x89PNG\r\n\x1a\nSECRETSECRETSECRET", b"GIF89aSECRETSECRET"):
        with pytest.raises(ImageRejected) as caught:
            decode_to_crop(data, CONFIG)
        assert "SECRET" not in caught.value.message


@pytest.mark.parametrize("align", [1, 2, 4, 8])
def test_the_square_is_in_the_middle_and_inside(align: int) -> None:
    for width, height in ((640, 480), (481, 1023), (1025, 1024), (1007, 1007), (1600, 1203)):
        square = centre_window(width, height, SQUARE, align=align)
        assert square.width == square.height
        assert square.left % align == square.top % align == square.width % align == 0
        assert min(width, height) - align < square.width <= min(width, height)
        for start, room in ((square.left, width), (square.top, height)):
            assert 0 <= start <= room - square.width
            assert abs(start - (room - square.width) / 2) <= max(align / 2, 0.5)
    found = centre_window(640, 480, SQUARE)
    assert found == CropWindow(left=80, top=0, width=480, height=480)


@pytest.mark.parametrize("align", [1, 2, 4, 8])
def test_a_window_has_its_buckets_aspect_in_the_middle_and_inside(align: int) -> None:
    for size in BucketsConfig(preset="sdxl").buckets():
        for width, height in ((640, 480), (481, 1023), (1025, 1024), (1600, 1203), (40, 900)):
            window = centre_window(width, height, size, align=align)
            assert window.left % align == window.top % align == 0
            assert window.width % align == window.height % align == 0
            assert 0 <= window.left <= width - window.width
            assert 0 <= window.top <= height - window.height
            assert width - window.width < align or height - window.height < align
            exact = min(width / size.width, height / size.height)
            assert abs(window.width - exact * size.width) <= 2 * align
            assert abs(window.height - exact * size.height) <= 2 * align


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("name", "side"), [("JPEG", 120), ("PNG", 120), ("WEBP", 900)])
def test_a_picture_is_stored_upright_in_the_bucket_of_its_aspect(
    name: str, side: int, orientation: int
) -> None:
    config = ImageConfig(buckets=BucketsConfig(sizes=((64, 64), (96, 64), (48, 96)), step=16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    original = Image.fromarray(drawn.quarters(side, side * 2 // 3))
    crop = crop_pixels(drawn.saved(original, name, exif=exif), config)
    is_turned = orientation > 4
    assert crop.pixels.shape == ((96, 48, 3) if is_turned else (64, 96, 3))
    assert (crop.original_width < crop.original_height) == is_turned


def test_a_picture_that_would_grow_too_far_is_too_small_for_its_bucket() -> None:
    small = drawn.saved(Image.fromarray(drawn.quarters(120, 80)), "PNG")
    allowed = BucketsConfig(sizes=((192, 128),), max_enlarge=1.6)
    assert crop_pixels(small, ImageConfig(buckets=allowed)).pixels.shape == (128, 192, 3)
    refused = BucketsConfig(sizes=((192, 128),), max_enlarge=1.5)
    assert _reason(small, ImageConfig(buckets=refused)) == "too_small_for_bucket"


def test_scaled_decoding_of_photographs_is_within_40_db_of_a_full_decode(shared_data: Path) -> None:
    photographs = sorted((shared_data / "photos" / "coco_mini").glob("*.jpg"))[::8]
    config = ImageConfig()
    for number, path in enumerate(photographs):
        shorter = (1024, 1100, 1201, 1337, 1600)[number % 5]
        with Image.open(path) as photo:
            scale = shorter / min(photo.size)
            size = (round(photo.width * scale), round(photo.height * scale))
            large = drawn.saved(photo.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=90)
        scaled = crop_pixels(large, config).pixels
        full = crop_pixels(large, config, scaled=False).pixels
        assert cv2.PSNR(scaled, full) >= 40, f"{path.name} at {shorter}"


def test_scaled_decoding_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.steps.download import decode

    asked = []
    whole = decode.decode_jpeg

    def watched(data, header, *, denominator):
        asked.append(denominator)
        return whole(data, header, denominator=denominator)

    monkeypatch.setattr(decode, "decode_jpeg", watched)
    for side in (100, 127, 128, 255, 256, 600):
        crop_pixels(drawn.saved(Image.new("RGB", (side, side)), "JPEG"), CONFIG)
    assert asked == [1, 1, 2, 2, 4, 8]


@pytest.mark.parametrize("where", ["before", "after"])
def test_metadata_that_cannot_be_read_cost_a_png_nothing(where: str) -> None:
    picture = Image.fromarray(drawn.quarters(120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = drawn.saved(picture, "PNG", exif=exif)
    at = plain.index(b"IDAT") - 4 if where == "before" else plain.index(b"IEND") - 4
    endless = b"workflow\0\0" + zlib.compress(bytes(3_000_000))
    profile = b"profile\0\0" + b"no zlib stream"
    unknown = b"XML:com.adobe.xmp\0\1\7\0\0" + b"?"
    broken = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)
        for name, content in ((b"zTXt", endless), (b"iCCP", profile), (b"iTXt", unknown))
        for crc in (zlib.crc32(name + content),)
    )
    found = crop_pixels(plain[:at] + broken + plain[at:], CONFIG)
    assert (found.pixels == crop_pixels(plain, CONFIG).pixels).all()
    assert (found.original_width, found.original_height) == (80, 120)
