"""Captioned pictures of simple shapes, drawn from a seed: the data of the tiny models."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Flaw = Literal["blur", "noise", "low_contrast", "wrong_caption"]
FLAWS: tuple[Flaw, ...] = get_args(Flaw)

# Recipes (training) draw seeds below it; tests, measurements and the demo from it up.
FIRST_HELD_OUT_SEED = 10_000_000

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (30, 150, 55),
    "blue": (35, 70, 215),
    "yellow": (245, 215, 40),
    "purple": (135, 40, 170),
    "orange": (245, 130, 20),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (240, 240, 240),
    "black": (25, 25, 25),
    "gray": (135, 135, 135),
    "blue": (50, 85, 205),
    "green": (45, 140, 65),
    "pink": (250, 170, 195),
}
SIZES = {"small": 0.15, "large": 0.25}  # radius in sides of the centre square
POSITIONS: dict[str, tuple[float, float]] = {
    "center": (0.50, 0.50),
    "left": (0.28, 0.50),
    "right": (0.72, 0.50),
    "top": (0.50, 0.28),
    "bottom": (0.50, 0.72),
    "top left": (0.28, 0.28),
    "top right": (0.72, 0.28),
    "bottom left": (0.28, 0.72),
    "bottom right": (0.72, 0.72),
}
TEMPLATES = (
    "a {size} {color} {shape} {place} on a {background} background",
    "a {background} background with a {size} {color} {shape} {place}",
    "a picture of a {size} {color} {shape} {place}, the background is {background}",
)
MAX_TILT_DEGREES = 9
SUPERSAMPLING = 3


@dataclass(frozen=True)
class Subject:
    """What a picture shows, or what a caption says it shows."""

    shape: str
    color: str
    background: str
    size: str
    position: str


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    `image` is uint8 of shape (height, width, 3), RGB. The attributes are those of the image;
    with the flaw "wrong_caption" the caption names at least another shape and another color.
    """

    image: npt.NDArray[np.uint8]
    caption: str
    shape: str
    color: str
    background: str
    size: str
    position: str
    flaw: Flaw | None


@dataclass(frozen=True)
class PictureSpec:
    """The seed and the flaw of one picture to draw."""

    seed: int
    flaw: Flaw | None


def plan_pictures(first_seed: int, count: int, *, flawed_share: float = 0.4) -> list[PictureSpec]:
    """Seeds `first_seed`.. with flaws: exactly round(count * flawed_share) of them, evenly mixed.

    Deterministic in its arguments. Raises ValueError if `flawed_share` is not within 0..1.
    """
    if not 0 <= flawed_share <= 1:
        raise ValueError(f"flawed_share is {flawed_share}; allowed is 0 to 1")
    flawed = round(count * flawed_share)
    flaws: list[Flaw | None] = [FLAWS[index % len(FLAWS)] for index in range(flawed)]
    flaws += [None] * (count - flawed)
    order = np.random.default_rng([first_seed, count]).permutation(count)
    return [PictureSpec(first_seed + place, flaws[pick]) for place, pick in enumerate(order)]


def draw(seed: int, *, width: int = 64, height: int = 64, flaw: Flaw | None = None) -> Picture:
    """Draw the picture of `seed`; the subject lies in the centre square of width x height pixels.

    Deterministic in its arguments; the flaw leaves the attributes as they are.
    Raises ValueError for sides under 16 pixels, negative seeds and unknown flaws.
    """
    if min(width, height) < 16:
        raise ValueError(f"size is {width}x{height}; draw sides of at least 16 pixels")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed are 0 and up")
    if flaw is not None and flaw not in FLAWS:
        raise ValueError(f"flaw is {flaw!r}; allowed are {FLAWS} and None")
    rng = np.random.default_rng([seed, 0])
    subject = _choose_subject(rng)
    image = _render(subject, width, height, rng)
    flaw_rng = np.random.default_rng([seed, 1])
    image = _spoil(image, flaw, flaw_rng)
    described = _other_subject(subject, flaw_rng) if flaw == "wrong_caption" else subject
    return Picture(
        image=image,
        caption=caption_of(described, template=int(rng.integers(len(TEMPLATES)))),
        shape=subject.shape,
        color=subject.color,
        background=subject.background,
        size=subject.size,
        position=subject.position,
        flaw=flaw,
    )


def caption_of(subject: Subject, *, template: int = 0) -> str:
    """The caption of `subject` in one of the TEMPLATES."""
    sides = {"center": "in the center", "left": "on the left", "right": "on the right"}
    sides |= {"top": "at the top", "bottom": "at the bottom"}
    return TEMPLATES[template].format(
        size=subject.size,
        color=subject.color,
        shape=subject.shape,
        place=sides.get(subject.position, f"in the {subject.position}"),
        background=subject.background,
    )


def shape_coverage(
    shape: str,
    *,
    centre: tuple[float, float],
    radius: float,
    tilt: float,
    width: int,
    height: int,
) -> npt.NDArray[np.float64]:
    """How much of each pixel a shape covers: (height, width), 0 to 1.

    `centre` (x, y) and `radius` are in pixels of a canvas SUPERSAMPLING times as wide and high;
    `tilt` is in radians.
    """
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING), 0)
    _fill_shape(ImageDraw.Draw(mask), shape, centre, radius, tilt)
    pixels = mask.resize((width, height), Image.Resampling.BOX)
    coverage: npt.NDArray[np.float64] = np.asarray(pixels, dtype=np.float64) / 255
    return coverage


def _choose_subject(rng: np.random.Generator) -> Subject:
    color = str(rng.choice(list(COLORS)))
    return Subject(
        shape=str(rng.choice(SHAPES)),
        color=color,
        background=str(rng.choice([name for name in BACKGROUNDS if name != color])),
        size=str(rng.choice(list(SIZES))),
        position=str(rng.choice(list(POSITIONS))),
    )


def _other_subject(subject: Subject, rng: np.random.Generator) -> Subject:
    while True:
        other = _choose_subject(rng)
        if other.shape != subject.shape and other.color != subject.color:
            return other


def _jittered(rgb: tuple[int, int, int], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return np.clip(np.array(rgb) + rng.uniform(-10, 10, size=3), 0, 255)


def _render(
    subject: Subject, width: int, height: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    scale = SUPERSAMPLING
    canvas = (width * scale, height * scale)
    side = min(canvas)
    x, y = np.array(POSITIONS[subject.position]) + rng.uniform(-0.025, 0.025, size=2)
    radius = SIZES[subject.size] * side * rng.uniform(0.92, 1.08)
    reach = 1.13 * radius / side  # of the widest shape
    x, y = np.clip((x, y), reach, 1 - reach)
    centre = (x * side + (canvas[0] - side) / 2, y * side + (canvas[1] - side) / 2)
    tilt = math.radians(rng.uniform(-MAX_TILT_DEGREES, MAX_TILT_DEGREES))
    coverage = shape_coverage(
        subject.shape, centre=centre, radius=radius, tilt=tilt, width=width, height=height
    )
    alpha = coverage[..., None]
    pixels = (1 - alpha) * _paint(BACKGROUNDS[subject.background], width, height, rng)
    pixels = pixels + alpha * _paint(COLORS[subject.color], width, height, rng)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _paint(
    rgb: tuple[int, int, int], width: int, height: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A surface (height, width, 3) of about one color: a gradient and a mild, smooth texture."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(4, 16)
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = strength * (math.cos(angle) * across + math.sin(angle) * down)
    coarse = Image.fromarray(rng.normal(0, 2.5, size=(9, 9)).astype(np.float32))
    texture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    surface: npt.NDArray[np.float64] = _jittered(rgb, rng) + (light + texture)[..., None]
    return surface


def _fill_shape(
    brush: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    tilt: float,
) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape in ("circle", "ring"):
        brush.ellipse(box, fill=255)
        if shape == "ring":
            hole = radius * 0.55
            brush.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return
    brush.polygon(_corners(shape, x, y, radius, tilt), fill=255)


def _corners(
    shape: str, x: float, y: float, radius: float, tilt: float
) -> list[tuple[float, float]]:
    third = radius * 0.34
    if shape == "square":
        half = radius * 0.88
        outline = [(-half, -half), (half, -half), (half, half), (-half, half)]
    elif shape == "cross":
        quarter = [(-third, -radius), (third, -radius), (third, -third)]
        outline = list(quarter)
        for _ in range(3):
            quarter = [(-down, across) for across, down in quarter]
            outline += quarter
    else:
        points, inner = (3, 1.0) if shape == "triangle" else (5, 0.42)
        steps = points if inner == 1.0 else 2 * points
        reach = radius * 1.12
        outline = [
            (
                reach * (inner if step % 2 else 1) * math.sin(2 * math.pi * step / steps),
                -reach * (inner if step % 2 else 1) * math.cos(2 * math.pi * step / steps),
            )
            for step in range(steps)
        ]
    cosine, sine = math.cos(tilt), math.sin(tilt)
    return [(x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in outline]


def _spoil(
    image: npt.NDArray[np.uint8], flaw: Flaw | None, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    if flaw == "blur":
        radius = rng.uniform(0.03, 0.06) * min(image.shape[:2])
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    pixels = image.astype(np.float64)
    if flaw == "noise":
        pixels = pixels + rng.normal(0, rng.uniform(30, 60), size=image.shape)
    elif flaw == "low_contrast":
        mean = pixels.mean()
        pixels = mean + rng.uniform(0.10, 0.25) * (pixels - mean)
    else:
        return image
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
