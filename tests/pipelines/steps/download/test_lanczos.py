"""Our Lanczos against OpenCV's."""

import cv2
import numpy as np
import pytest

from pipelines.steps.download.lanczos import enlarge_image
from sd_core.model.buckets import Bucket


def noise(side: int, channels: int) -> np.ndarray:
    small = np.random.default_rng(side).integers(0, 256, (side, side, channels), np.uint8)
    return cv2.GaussianBlur(small, (3, 3), 0).reshape(side, side, channels)


@pytest.mark.parametrize("side", [1, 2, 7, 100, 353, 511, 512])
@pytest.mark.parametrize("channels", [1, 3])
def test_enlarged_squares_are_those_of_opencv_but_for_rounding(side: int, channels: int) -> None:
    image = noise(side, channels)
    theirs = cv2.resize(image, (512, 512), interpolation=cv2.INTER_LANCZOS4)
    ours = enlarge_image(image, size=Bucket(width=512, height=512))
    assert ours.shape == (512, 512, channels)
    assert np.abs(ours.astype(int) - theirs.reshape(ours.shape)).max() <= 2


def test_a_plain_square_stays_plain() -> None:
    image = np.full((37, 37, 3), 201, np.uint8)
    assert (enlarge_image(image, size=Bucket(width=64, height=64)) == 201).all()


def test_a_part_of_a_larger_image_can_be_enlarged() -> None:
    image = noise(90, 3)
    part = image[10:60, 20:70]
    size = Bucket(width=96, height=96)
    assert (enlarge_image(part, size=size) == enlarge_image(part.copy(), size=size)).all()


def test_an_enlarged_window_of_any_aspect_is_that_of_opencv_but_for_rounding() -> None:
    image = noise(90, 3)[:60]
    theirs = cv2.resize(image, (192, 128), interpolation=cv2.INTER_LANCZOS4)
    ours = enlarge_image(image, size=Bucket(width=192, height=128))
    assert np.abs(ours.astype(int) - theirs).max() <= 2
