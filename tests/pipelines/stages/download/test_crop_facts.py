"""Facts of the stored square: they mean what their definitions say, to the last bit."""

import cv2
import imagehash
import numpy as np
import pytest
from PIL import Image

from pipelines.stages.download.crop_facts import CropFacts, CropFactsConfig, measure_crop
from pipelines.stages.download.crop_facts import perceptual_hash as phash
from pipelines.stages.download.decode import crop_pixels, encode_pixels
from pipelines.stages.download.image_config import ImageConfig
from pipelines.stored_images import decode_crop as decode_stored


def smooth(seed: int, side: int = 512) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def distance(left: str, right: str) -> int:
    return (int(left, 16) ^ int(right, 16)).bit_count()


@pytest.fixture(scope="module")
def photographs(shared_data) -> list[np.ndarray]:
    files = sorted((shared_data / "photos" / "coco_mini").rglob("*.jpg"))[:24]
    return [crop_pixels(file.read_bytes(), ImageConfig()).pixels for file in files]


@pytest.mark.parametrize("side", [16, 32, 64, 96, 127])
def test_hash_is_that_of_imagehash_where_nothing_is_averaged_first(side: int) -> None:
    for seed in range(20):
        picture = smooth(seed, side)
        assert phash(picture) == str(imagehash.phash(Image.fromarray(picture)))


def test_hash_of_a_photograph_is_that_of_imagehash_but_for_few_bits(photographs) -> None:
    found = [
        distance(phash(grey), str(imagehash.phash(Image.fromarray(grey))))
        for grey in (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in photographs)
    ]
    assert max(found) <= 2
    assert np.mean(found) <= 0.5


def test_hash_of_the_stored_file_is_that_of_its_pixels_but_for_few_bits(photographs) -> None:
    config = ImageConfig()
    for pixels in photographs:
        stored = decode_stored(encode_pixels(pixels, config), "a crop")
        hashes = [measure_crop(p, CropFactsConfig()).phash for p in (pixels, stored)]
        assert distance(*hashes) <= 2


def test_flat_and_symmetric_pictures_have_no_bits_of_noise() -> None:
    for level in (1, 128, 255):
        assert phash(np.full((512, 512), level, np.uint8)) == "8000000000000000"
    assert phash(np.zeros((512, 512), np.uint8)) == "0000000000000000"
    half = smooth(3)[:, :256]
    mirrored = np.hstack([half, half[:, ::-1]])
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(phash(mirrored)), np.uint8)).reshape(8, 8)
    odd = bits[:, 1::2]  # each of these coefficients is exactly zero, so all fall on one side
    assert odd.min() == odd.max()


def test_other_pictures_are_far_and_recompressed_ones_near(photographs) -> None:
    low = ImageConfig(quality=30)
    hashes = [measure_crop(pixels, CropFactsConfig()).phash for pixels in photographs]
    again = [
        measure_crop(decode_stored(encode_pixels(pixels, low), "again"), CropFactsConfig()).phash
        for pixels in photographs
    ]
    assert max(distance(*pair) for pair in zip(hashes, again, strict=True)) <= 4
    apart = [distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 10


def test_a_fact_that_is_off_is_null() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert measure_crop(pixels, CropFactsConfig(phash=False)) == CropFacts()
