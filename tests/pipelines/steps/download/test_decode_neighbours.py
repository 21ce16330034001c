"""Whatever a file is, the pictures decoded before and after it keep their pixels, bit for bit."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.rows.ledger import REASONS
from pipelines.steps.download.decode_frames import DecodeResult
from pipelines.steps.download.decoder_process import DecoderProcess
from pipelines.steps.download.image_config import ImageConfig
from tests.pipelines.steps.download import drawn, odd_jpegs
from tests.pipelines.steps.download.mutations import drawn_originals, mutations

SIZE = 32
CONFIG = ImageConfig(size=SIZE, format="png")
NUM_MUTATIONS = 300


def _neighbours() -> list[bytes]:
    """Pictures that take every path: scaled at 1/2, 1/4 and 1/8, whole, and through Pillow."""
    sides = (20, SIZE, 2 * SIZE, 5 * SIZE, 9 * SIZE)
    pictures = [Image.fromarray(drawn.noise(side, seed=side)) for side in sides]
    files = [drawn.saved(picture, "JPEG", quality=90) for picture in pictures]
    files += [drawn.saved(pictures[-1], name) for name in ("PNG", "WEBP", "TIFF")]
    return [*files, drawn.saved(pictures[-1].convert("CMYK"), "JPEG")]


NEIGHBOURS = _neighbours()


def _decode(files: Sequence[bytes]) -> list[DecodeResult]:
    with DecoderProcess(CONFIG) as decoder:
        return [future.result() for future in [decoder.submit(data) for data in files]]


def _between_neighbours(files: Sequence[bytes]) -> Iterator[bytes]:
    """Each file between two neighbours, every neighbour in its turn."""
    for number, data in enumerate(files):
        yield NEIGHBOURS[number % len(NEIGHBOURS)]
        yield data
    yield NEIGHBOURS[len(files) % len(NEIGHBOURS)]


@cache
def _clean_neighbours() -> list[DecodeResult]:
    """Each neighbour decoded by a process that decoded nothing else."""
    clean = [_decode([data])[0] for data in NEIGHBOURS]
    assert all(result.image is not None for result in clean)
    return clean


def _decode_between_neighbours(files: Sequence[bytes]) -> list[DecodeResult]:
    """What became of the files; fails where a neighbour is not what a clean process makes of it."""
    clean = _clean_neighbours()
    results = _decode(list(_between_neighbours(files)))
    for number, result in enumerate(results[::2]):
        assert result == clean[number % len(clean)], f"neighbour {number} was changed"
    return results[1::2]


def _pixels(result: DecodeResult) -> np.ndarray:
    assert result.image is not None, result
    return cv2.imdecode(np.frombuffer(result.image, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_no_bad_file_and_no_mutation_changes_a_neighbours_pixels(shared_data: Path) -> None:
    folder = shared_data / "badfiles"
    bad = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".json"}
    originals = drawn_originals() | {name: data for name, data in bad.items() if len(data) < 60_000}
    broken = list(mutations(originals, NUM_MUTATIONS, seed=12))
    names = [*bad, *(mutation.name for mutation in broken)]
    results = _decode_between_neighbours([*bad.values(), *(mutation.data for mutation in broken)])
    for name, result in zip(names, results, strict=True):
        if result.image is not None:
            assert _pixels(result).shape == (SIZE, SIZE, 3), name
        assert (result.image is None) == (result.reason in REASONS), name
        assert result.reason not in ("decoder_crashed", "decode_timed_out"), name
    assert 60 < sum(result.image is not None for result in results) < 300


def test_what_a_mutation_gives_depends_on_nothing_that_lay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [mutation.data for mutation in mutations(drawn_originals(), NUM_MUTATIONS, seed=3)]
    found = []
    for fill, order in ((0, 1), (85, -1)):  # of memory that is given out and given back
        monkeypatch.setitem(os.environ, "MALLOC_PERTURB_", str(fill))
        found.append(_decode(files[::order])[::order])
    assert found[0] == found[1]


@pytest.mark.parametrize("times", [1, 2, 4, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_lossless_jpeg_gives_its_own_pixels_and_its_neighbours_theirs(times, channels) -> None:
    picture = drawn.noise(times * SIZE)[:, :, :channels]
    lossless, as_png = _decode_between_neighbours(
        [odd_jpegs.lossless_jpeg(picture), drawn.saved(Image.fromarray(picture.squeeze()), "PNG")]
    )
    assert (_pixels(lossless) == _pixels(as_png)).all()
    assert (lossless.original_width, lossless.original_format) == (times * SIZE, "jpeg")


def test_a_jpeg_of_arithmetic_codes_gives_its_own_pixels_and_its_neighbours_theirs() -> None:
    (found,) = _decode_between_neighbours([odd_jpegs.ARITHMETIC])
    corners = [drawn.RED, drawn.GREEN, drawn.BLUE, drawn.YELLOW]
    assert drawn.near(drawn.corner_colours(_pixels(found)), corners, by=4)


@pytest.mark.parametrize("times", [1, 2, 9])
def test_a_jpeg_that_claims_another_frame_type_is_refused_beside_its_neighbours(times) -> None:
    picture = Image.fromarray(drawn.noise(times * SIZE))
    jpeg = drawn.saved(picture, "JPEG")
    wrong = (3, 5, 6, 7, 9, 10, 11, 13, 14, 15)
    results = _decode_between_neighbours(
        [odd_jpegs.with_frame(jpeg, number=number) for number in wrong]
    )
    reasons = dict(zip(wrong, (result.reason for result in results), strict=True))
    assert {reasons[number] for number in wrong if number not in (3, 9, 10)} == {
        "format_unsupported"
    }
    assert {reasons[number] for number in (3, 9, 10)} == {"image_unreadable"}
    assert all(result.original_width == times * SIZE for result in results)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bit_depth": 12}, "format_unsupported"),
        ({"number": 1, "bit_depth": 12}, "format_unsupported"),
        ({"number": 3, "bit_depth": 16}, "format_unsupported"),
        ({"bit_depth": 0}, "image_unreadable"),
        ({"channels": 2}, "format_unsupported"),
        ({"channels": 0}, "image_unreadable"),
    ],
)
def test_samples_and_components_that_no_decoder_knows_are_a_reason(changes, reason) -> None:
    jpeg = drawn.saved(Image.fromarray(drawn.noise(4 * SIZE)), "JPEG")
    (result,) = _decode_between_neighbours([odd_jpegs.with_frame(jpeg, **changes)])
    assert (result.reason, result.original_width) == (reason, 4 * SIZE)


def test_frames_that_readers_could_tell_apart_are_refused() -> None:
    segments, rest = odd_jpegs.split(drawn.saved(Image.fromarray(drawn.noise(4 * SIZE)), "JPEG"))
    at = next(n for n, found in enumerate(segments) if found[0] == 0xC0)
    small = (0xC3, b"\x08\0\x08\0\x08" + segments[at][1][5:])
    hierarchy = (0xDE, segments[at][1])
    files = [
        odd_jpegs.joined([*segments[:at], small, *segments[at:]], rest),
        odd_jpegs.joined([*segments[: at + 1], small, *segments[at + 1 :]], rest),
        odd_jpegs.joined([*segments[:at], hierarchy, *segments[at:]], rest),
        odd_jpegs.joined([*segments[: at + 1], hierarchy, *segments[at + 1 :]], rest),
        odd_jpegs.joined(segments, rest[:900] + odd_jpegs.segment(*small) + rest[900:]),
    ]
    assert [result.reason for result in _decode_between_neighbours(files)] == [
        "image_unreadable",
        "image_unreadable",
        "format_unsupported",
        "format_unsupported",
        "image_unreadable",
    ]


def test_a_frame_within_a_segment_is_nobodys_frame() -> None:
    picture = drawn.noise(4 * SIZE)
    jpeg = drawn.saved(Image.fromarray(picture), "JPEG")
    thumbnail = odd_jpegs.lossless_jpeg(picture[:16, :16])
    segments, rest = odd_jpegs.split(jpeg)
    with_thumbnails = [(0xE1, b"Exif\0\0" + thumbnail), (0xE2, b"MPF\0" + thumbnail), *segments]
    plain, found = _decode_between_neighbours([jpeg, odd_jpegs.joined(with_thumbnails, rest)])
    assert plain.image is not None
    assert found == plain


def test_an_orientation_counts_wherever_it_stands_and_however_long_its_block_is() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x9286] = 6, b"x" * 150_000  # more than a segment holds
    block = exif.tobytes()[6:]
    parts = [block[begin : begin + 65_000] for begin in range(0, len(block), 65_000)]
    metadata = [(0xE1, b"Exif\0\0" + part) for part in parts]
    metadata += [(0xE2, b"ICC_PROFILE\0" + bytes((n, 3)) + bytes(65_000)) for n in (1, 2, 3)]
    metadata += [(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(60_000))] * 3
    jpeg = drawn.saved(Image.fromarray(drawn.quarters(4 * SIZE, 3 * SIZE)), "JPEG", quality=95)
    segments, rest = odd_jpegs.split(jpeg)
    for written in ([*metadata, *segments], [*segments, *metadata]):
        (result,) = _decode_between_neighbours([odd_jpegs.joined(written, rest)])
        assert (result.original_width, result.original_height) == (3 * SIZE, 4 * SIZE)
        corners = [drawn.BLUE, drawn.RED, drawn.YELLOW, drawn.GREEN]
        assert drawn.near(drawn.corner_colours(_pixels(result)), corners)


def test_a_fresh_process_follows_what_a_decoder_gave_up_on_and_nothing_else() -> None:
    png = drawn.saved(Image.fromarray(drawn.noise(64)), "PNG")
    jpeg = NEIGHBOURS[3]
    lossless = odd_jpegs.lossless_jpeg(drawn.noise(64))
    with DecoderProcess(CONFIG) as decoder:

        def replaced_by(data: bytes) -> bool:
            before = _pid_of_next(decoder)
            decoder.submit(data).result()
            return _pid_of_next(decoder) != before

        supervisor = decoder.supervisor_pid
        assert replaced_by(png[:4000])
        assert replaced_by(lossless[:4000])
        assert replaced_by(odd_jpegs.with_frame(jpeg, number=3))
        assert not replaced_by(jpeg[: len(jpeg) // 2])  # the commonest of broken files: no cost
        assert not replaced_by(lossless)
        assert not replaced_by(odd_jpegs.with_frame(jpeg, number=7))  # no decoder saw it
        assert not replaced_by(b"<html>")
        assert decoder.supervisor_pid == supervisor


def _pid_of_next(decoder: DecoderProcess) -> int:
    assert decoder.submit(NEIGHBOURS[0]).result().image is not None
    return decoder.pid
