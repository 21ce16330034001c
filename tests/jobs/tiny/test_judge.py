"""The judge knows drawn pictures, and refuses to name what is not there."""

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from jobs.tiny.drawing import BACKGROUNDS, COLORS, FIRST_HELD_OUT_SEED, draw
from jobs.tiny.judge import ATTRIBUTES, judge_picture
from jobs.tiny.loading import load_tiny_autoencoder
from jobs.tiny.measure_denoiser import JudgedSamples, judged
from jobs.tiny.train_autoencoder import to_input

Picture = npt.NDArray[np.uint8]
COUNT = 200


@pytest.fixture(scope="module")
def drawn() -> JudgedSamples:
    pictures = [draw(FIRST_HELD_OUT_SEED + index) for index in range(COUNT)]
    return judged(pictures, np.stack([picture.image for picture in pictures]))


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_drawn_pictures_are_named_right(drawn: JudgedSamples, attribute: str) -> None:
    assert drawn.shares()[attribute] >= 0.98


def test_so_they_are_after_the_autoencoder(drawn: JudgedSamples) -> None:
    import torch

    autoencoder = load_tiny_autoencoder()
    pictures = [draw(FIRST_HELD_OUT_SEED + index) for index in range(80)]
    with torch.inference_mode():
        inputs = to_input(drawn.images[:80])
        outputs = autoencoder.decode(autoencoder.encode(inputs).latent_dist.mode()).sample
    levels = ((outputs.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    restored = judged(pictures, levels.permute(0, 2, 3, 1).numpy())
    assert min(restored.shares().values()) >= 0.95, restored.shares()


def test_another_picture_of_the_set_rarely_passes(drawn: JudgedSamples) -> None:
    others = JudgedSamples(drawn.subjects[1:] + drawn.subjects[:1], drawn.images, drawn.judgements)
    assert others.all_right() <= 0.02
    assert others.shares()["shape"] == pytest.approx(1 / 6, abs=0.08)


def canvas(seed: int) -> Image.Image:
    names = list(BACKGROUNDS)
    return Image.new("RGB", (192, 192), BACKGROUNDS[names[seed % len(names)]])


def paint(seed: int) -> tuple[int, int, int]:
    return list(COLORS.values())[seed % len(COLORS)]


def small(image: Image.Image) -> Picture:
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def nothing(seed: int) -> Picture:
    return small(canvas(seed))


def noise(seed: int) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def clouds(seed: int) -> Picture:
    values = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(64, 64, 3)), (0, 0), 5)
    return np.clip(128 + 60 * values / values.std(), 0, 255).astype(np.uint8)


def half(seed: int) -> Picture:
    image = canvas(seed)
    ImageDraw.Draw(image).rectangle((0, 0, 96, 192), fill=paint(seed))
    return small(image)


def two_circles(seed: int) -> Picture:
    image = canvas(seed)
    for corner in (20, 110):
        box = (corner, corner, corner + 60, corner + 60)
        ImageDraw.Draw(image).ellipse(box, fill=paint(seed))
    return small(image)


def ellipse(seed: int) -> Picture:
    image = canvas(seed)
    ImageDraw.Draw(image).ellipse((50, 65, 142, 127), fill=paint(seed))
    return small(image)


def rectangle(seed: int) -> Picture:
    image = canvas(seed)
    ImageDraw.Draw(image).rectangle((50, 65, 142, 127), fill=paint(seed))
    return small(image)


def two_colors(seed: int) -> Picture:
    image = canvas(seed)
    ImageDraw.Draw(image).ellipse((50, 50, 142, 142), fill=paint(seed))
    ImageDraw.Draw(image).chord((50, 50, 142, 142), 0, 180, fill=paint(seed + 2))
    return small(image)


SHAPELESS = [nothing, noise, clouds, half, two_circles, ellipse, rectangle, two_colors]


@pytest.mark.parametrize("picture", SHAPELESS, ids=lambda picture: picture.__name__)
def test_what_is_no_clear_shape_has_no_name(picture: Callable[[int], Picture]) -> None:
    judgements = [judge_picture(picture(seed)) for seed in range(24)]
    assert {judgement.shape for judgement in judgements} == {None}
    assert {judgement.size for judgement in judgements} == {None}


def test_an_empty_picture_has_a_background_alone() -> None:
    judgement = judge_picture(nothing(0))
    assert judgement.background == "white"
    assert (judgement.color, judgement.position) == (None, None)


def test_a_color_that_is_not_of_the_palette_has_no_name() -> None:
    image = Image.new("RGB", (192, 192), (120, 220, 220))
    ImageDraw.Draw(image).ellipse((50, 50, 142, 142), fill=(110, 90, 60))
    judgement = judge_picture(small(image))
    assert (judgement.color, judgement.background, judgement.shape) == (None, None, "circle")


def test_a_shape_between_two_positions_is_at_neither() -> None:
    image = Image.new("RGB", (192, 192), BACKGROUNDS["white"])
    ImageDraw.Draw(image).ellipse((46, 67, 104, 125), fill=COLORS["red"])
    judgement = judge_picture(small(image))
    assert (judgement.shape, judgement.size, judgement.position) == ("circle", "small", None)


@pytest.mark.parametrize("shape", [(64, 32, 3), (64, 64), (16, 16, 3)])
def test_other_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="judge "):
        judge_picture(np.zeros(shape, dtype=np.uint8))
