"""The drawn pictures: deterministic, as captioned, flawed as asked."""

import re

import numpy as np
import pytest

from jobs.tiny.drawing import (
    BACKGROUNDS,
    COLORS,
    FIRST_HELD_OUT_SEED,
    FLAWS,
    POSITIONS,
    SHAPES,
    Flaw,
    Picture,
    draw,
    plan_pictures,
)

SEEDS = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 60)


def _named(picture: Picture, words: list[str]) -> list[str]:
    """Which of `words` the caption names, in its order; longer ones first ("top left")."""
    choices = "|".join(sorted(words, key=len, reverse=True))
    return re.findall(rf"\b(?:{choices})\b", picture.caption)


@pytest.mark.parametrize("flaw", [None, *FLAWS])
def test_a_seed_always_draws_the_same_picture(flaw: Flaw | None) -> None:
    first, second = draw(7, flaw=flaw), draw(7, flaw=flaw)
    assert np.array_equal(first.image, second.image)
    assert first.caption == second.caption


def test_another_seed_draws_another_picture() -> None:
    assert not np.array_equal(draw(7).image, draw(8).image)


def test_the_caption_names_the_attributes() -> None:
    for seed in SEEDS:
        picture = draw(seed)
        colors = list({*COLORS, *BACKGROUNDS})
        assert _named(picture, list(SHAPES)) == [picture.shape]
        assert _named(picture, ["small", "large"]) == [picture.size]
        assert _named(picture, list(POSITIONS)) == [picture.position]
        assert sorted(_named(picture, colors)) == sorted([picture.color, picture.background])


def test_a_wrong_caption_names_another_shape_and_another_color() -> None:
    for seed in SEEDS:
        picture, right = draw(seed, flaw="wrong_caption"), draw(seed)
        assert np.array_equal(picture.image, right.image)
        assert picture.shape not in picture.caption.split()
        assert f"{picture.color} {picture.shape}" not in picture.caption
        assert _named(picture, list(COLORS)) != _named(right, list(COLORS))


def test_the_color_drawn_is_the_one_nearest_to_the_color_named() -> None:
    for seed in SEEDS:
        picture = draw(seed)
        if picture.shape == "ring":
            continue
        x, y = POSITIONS[picture.position]
        pixel = picture.image[round(y * 63), round(x * 63)].astype(float)
        distances = {name: np.linalg.norm(pixel - rgb) for name, rgb in COLORS.items()}
        assert min(distances, key=lambda name: distances[name]) == picture.color


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 160)])
def test_the_subject_lies_in_the_centre_square(width: int, height: int) -> None:
    for seed in SEEDS:
        picture = draw(seed, width=width, height=height)
        assert picture.image.shape == (height, width, 3)
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        outside = np.ones((height, width), dtype=bool)
        outside[top : top + side, left : left + side] = False
        distance = np.abs(picture.image[outside].astype(float) - BACKGROUNDS[picture.background])
        assert distance.max() < 60


def test_flaws_do_to_the_image_what_they_say() -> None:
    for seed in SEEDS:
        plain = draw(seed).image.astype(float)
        blurred, noisy, faint = (
            draw(seed, flaw=flaw).image.astype(float) for flaw in FLAWS if flaw != "wrong_caption"
        )
        assert np.abs(np.diff(blurred, axis=1)).max() < np.abs(np.diff(plain, axis=1)).max() * 0.7
        assert np.abs(np.diff(noisy, axis=1)).mean() > 10 + np.abs(np.diff(plain, axis=1)).mean()
        assert faint.std() < 0.3 * plain.std()


def test_the_plan_has_the_share_of_flaws_asked_for_evenly_mixed() -> None:
    specs = plan_pictures(500, 100, flawed_share=0.4)
    assert [spec.seed for spec in specs] == list(range(500, 600))
    assert {flaw: sum(spec.flaw == flaw for spec in specs) for flaw in FLAWS} == dict.fromkeys(
        FLAWS, 10
    )
    assert specs == plan_pictures(500, 100, flawed_share=0.4)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="8x64"):
        draw(1, width=8)
    with pytest.raises(ValueError, match="seed is -1"):
        draw(-1)
    with pytest.raises(ValueError, match=r"flawed_share is 1\.5"):
        plan_pictures(0, 10, flawed_share=1.5)
