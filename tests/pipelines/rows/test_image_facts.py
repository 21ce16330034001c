"""Facts of a stored image: they mean what their definitions say, to the last bit."""

import cv2
import numpy as np
import pytest

from pipelines.rows.image_facts import (
    ImageFacts,
    ImageFactsConfig,
    measure_image,
    perceptual_hash,
)
from pipelines.run.images import decode_crop as decode_stored
from pipelines.steps.download.decode import crop_pixels, encode_pixels
from pipelines.steps.download.image_config import ImageConfig

EVERY = ImageFactsConfig()


def smooth(seed: int, side: int = 512) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def distance(left: str, right: str) -> int:
    return (int(left, 16) ^ int(right, 16)).bit_count()


def coloured(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.fixture(scope="module")
def photographs(shared_data) -> list[np.ndarray]:
    files = sorted((shared_data / "photos" / "coco_mini").rglob("*.jpg"))[:24]
    return [crop_pixels(file.read_bytes(), ImageConfig()).pixels for file in files]


@pytest.mark.parametrize("shape", [(64, 64), (72, 180), (97, 31), (512, 512)])
def test_hash_says_where_a_cell_is_brighter_than_the_one_before(shape) -> None:
    grey = np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)

    def means(rows: int, columns: int) -> np.ndarray:
        top = [shape[0] * at // rows for at in range(rows + 1)]
        left = [shape[1] * at // columns for at in range(columns + 1)]
        return np.array(
            [
                [grey[top[r] : top[r + 1], left[c] : left[c + 1]].mean() for c in range(columns)]
                for r in range(rows)
            ]
        )

    wide, tall = means(4, 9), means(9, 4)
    bits = [wide[r, c + 1] > wide[r, c] for r in range(4) for c in range(8)]
    bits += [tall[r + 1, c] > tall[r, c] for r in range(8) for c in range(4)]
    expected = int("".join("1" if bit else "0" for bit in bits), 2)
    assert int(perceptual_hash(grey), 16) == expected
    assert len(perceptual_hash(grey)) == 16


def test_hash_of_the_stored_file_is_that_of_its_pixels_but_for_few_bits(photographs) -> None:
    config = ImageConfig()
    for pixels in photographs:
        stored = decode_stored(encode_pixels(pixels, config), "a crop")
        hashes = [measure_image(p, EVERY).phash for p in (pixels, stored)]
        assert distance(*hashes) <= 2


def test_flat_pictures_have_no_bits_of_noise_and_tiny_ones_a_hash() -> None:
    for level in (0, 1, 128, 255):
        assert perceptual_hash(np.full((512, 512), level, np.uint8)) == "0" * 16
    assert perceptual_hash(np.arange(4, dtype=np.uint8).reshape(2, 2)) != "0" * 16


def test_other_pictures_are_far_and_recompressed_ones_near(photographs) -> None:
    low = ImageConfig(quality=30)
    hashes = [measure_image(pixels, EVERY).phash for pixels in photographs]
    again = [
        measure_image(decode_stored(encode_pixels(pixels, low), "again"), EVERY).phash
        for pixels in photographs
    ]
    assert max(distance(*pair) for pair in zip(hashes, again, strict=True)) <= 4
    apart = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 9


def test_sharpness_entropy_and_contrast_are_those_of_their_definitions() -> None:
    grey = smooth(1, 96)
    facts = measure_image(coloured(grey), EVERY)
    assert facts.contrast == pytest.approx(float(grey.astype(np.float64).std()), abs=1e-9)
    _, counts = np.unique(grey, return_counts=True)
    shares = counts / grey.size
    assert facts.entropy == pytest.approx(float(-(shares * np.log2(shares)).sum()), abs=1e-9)
    padded = np.pad(grey.astype(np.int64), 1, mode="reflect")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    laplacian = around - 4 * padded[1:-1, 1:-1]
    assert facts.sharpness == pytest.approx(float(laplacian.var()), rel=1e-9)


def test_a_blurred_photograph_is_less_sharp_and_a_flat_one_has_nothing(photographs) -> None:
    for pixels in photographs:
        blurred = cv2.GaussianBlur(pixels, (0, 0), 3)
        assert measure_image(blurred, EVERY).sharpness < measure_image(pixels, EVERY).sharpness / 4
    flat = measure_image(np.full((64, 64, 3), 90, np.uint8), EVERY)
    assert (flat.sharpness, flat.entropy, flat.contrast) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", list(ImageFactsConfig.model_fields))
def test_a_fact_that_is_off_is_null_and_not_in_the_identity(name: str) -> None:
    pixels = coloured(smooth(2, 64))
    without = ImageFactsConfig(**{name: False})
    facts = measure_image(pixels, without)
    assert getattr(facts, name) is None
    others = set(vars(facts)) - {name}
    assert all(getattr(facts, n) == getattr(measure_image(pixels, EVERY), n) for n in others)
    assert name not in without.identity()["facts"]


def test_with_every_fact_off_nothing_is_measured_nor_identified() -> None:
    off = ImageFactsConfig(**dict.fromkeys(ImageFactsConfig.model_fields, False))
    assert measure_image(coloured(smooth(2, 64)), off) == ImageFacts()
    assert off.identity() == {}
