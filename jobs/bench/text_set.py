"""Pictures with text of known place, size, contrast and script on half of them, and none on the
others."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from jobs.tiny.drawing import (
    BACKGROUNDS,
    COLORS,
    FIRST_HELD_OUT_SEED,
    POSITIONS,
    SHAPES,
    Subject,
    caption_of,
    draw,
)
from sd_core.errors import InputError

Script = Literal["Latin", "Cyrillic", "Chinese"]
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

TEXT_SEED: Final = FIRST_HELD_OUT_SEED + 50_000_000
SIZES_PX: Final = (12, 16, 20, 24, 32, 48, 64, 96)
CONTRASTS: Final = (80, 128, 190)
"""Least difference of brightness between a letter and what is under it, of 255, where the
background leaves as much."""
SIDE_PX: Final = 512
CHINESE_FONTS: Final = (
    "opentype/noto/NotoSansCJK-Regular.ttc",
    "truetype/droid/DroidSansFallbackFull.ttf",
    "truetype/wqy/wqy-zenhei.ttc",
)
WORDS: Final[dict[Script, str]] = {
    "Latin": "harbour sale fresh bread open daily museum of modern art spring market best price "
    "handmade in the city garden party welcome home coffee and tea number seven",
    "Cyrillic": "свежий хлеб открыто ежедневно музей цены скидки добро пожаловать вокзал молоко "
    "книги новый город осторожно ремонт обуви лучший подарок аптека",
    "Chinese": "欢迎光临 新鲜水果 今日特价 中国银行 北京大学 热烈祝贺 请勿吸烟 注意安全 "
    "春夏秋冬 图书馆",
}
_FONTS: Final = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")  # matplotlib's own
_MARGIN_PX = 6
_CAPTION_SIZES_PX = (24, 32, 48)
_TRIED = 8  # places, of which the calmest is taken, so that the contrast is what it says


@dataclass(frozen=True, kw_only=True)
class PlantedText:
    """Text on a picture: a box is that of a line's ink."""

    text: str
    script: Script
    size_px: int
    contrast: int
    boxes: tuple[Box, ...]

    @property
    def area(self) -> float:
        """The share of the picture that its boxes cover."""
        sides = ((right - left, bottom - top) for left, top, right, bottom in self.boxes)
        return sum(width * height for width, height in sides) / SIDE_PX**2


@dataclass(frozen=True, kw_only=True)
class TextPicture:
    """A picture of `SIDE_PX`, RGB.

    Attributes:
        is_drawn: Or a photograph.
        planted: The text that was drawn on it.
        is_only_text: It shows nothing but the text, and that is its caption.
        has_writing: There was writing before.
    """

    pixels: npt.NDArray[np.uint8]
    caption: str
    is_drawn: bool
    planted: PlantedText | None = None
    is_only_text: bool = False
    has_writing: bool = False


def find_chinese_font(told: Path | None) -> Path:
    """A font with Chinese letters; raises `InputError` where there is none."""
    if told is not None:
        return told
    for name in CHINESE_FONTS:
        if (path := Path("/usr/share/fonts") / name).is_file():
            return path
    raise InputError(
        "no font with Chinese letters is installed: apt-get install fonts-noto-cjk, or give one "
        "with --chinese-font"
    )


def fonts_of(chinese: Path | None) -> dict[Script, list[Path]]:
    """The fonts of each script; Chinese only where there is one."""
    own = [Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name for name in _FONTS]
    fonts: dict[Script, list[Path]] = {"Latin": own, "Cyrillic": own}
    return fonts if chinese is None else fonts | {"Chinese": [chinese]}


def drawn_pictures(
    count: int, *, fonts: dict[Script, list[Path]], seed: int = TEXT_SEED
) -> Iterator[TextPicture]:
    """Drawn pictures: half without text, an eighth that are nothing but text, the rest with text
    beside what they show, in even numbers of scripts, sizes and contrasts."""
    rng = random.Random(seed)
    for number in range(count):
        kind, turn = number % 8, number // 8
        if kind == 7:
            yield _only_text(fonts, rng, seed=seed + number, turn=turn)
            continue
        drawn = draw(seed + number, width=SIDE_PX, height=SIDE_PX)
        picture = TextPicture(pixels=drawn.image, caption=drawn.caption, is_drawn=True)
        yield plant(picture, fonts, rng, turn=3 * turn + kind - 4) if kind > 3 else picture


def plant(
    picture: TextPicture, fonts: dict[Script, list[Path]], rng: random.Random, *, turn: int
) -> TextPicture:
    """The picture with text on it, of the turn's script, size and contrast."""
    script = list(fonts)[turn % len(fonts)]
    size_px = SIZES_PX[turn // len(fonts) % len(SIZES_PX)]
    contrast = CONTRASTS[turn // (len(fonts) * len(SIZES_PX)) % len(CONTRASTS)]
    font = ImageFont.truetype(str(rng.choice(fonts[script])), size_px)
    text = _fitting(WORDS[script].split(), font, rng, joined="" if script == "Chinese" else " ")
    place = min((_place(font, text, rng) for _ in range(_TRIED)), key=_unrest_of(picture.pixels))
    under = _under(picture.pixels, place).mean(axis=(0, 1))
    pixels = _write(picture.pixels, font, text, place, colour=_ink(under, contrast))
    planted = PlantedText(
        text=text, script=script, size_px=size_px, contrast=contrast, boxes=(place,)
    )
    return TextPicture(
        pixels=pixels,
        caption=picture.caption,
        is_drawn=picture.is_drawn,
        planted=planted,
        has_writing=picture.has_writing,
    )


def _only_text(
    fonts: dict[Script, list[Path]], rng: random.Random, *, seed: int, turn: int
) -> TextPicture:
    """A caption as the drawn pictures have it, in letters of the colour that it names, on a surface
    that it does not: but for them, nothing fits."""
    colour = rng.choice(sorted(COLORS))
    ground = _farthest(colour, rng)
    named = rng.choice(sorted({*BACKGROUNDS} - {ground, colour}))
    size_px = _CAPTION_SIZES_PX[turn % len(_CAPTION_SIZES_PX)]
    font = ImageFont.truetype(str(rng.choice(fonts["Latin"])), size_px)
    subject = Subject(rng.choice(SHAPES), colour, named, "large", rng.choice(sorted(POSITIONS)))
    caption = caption_of(subject)
    noise = np.random.default_rng(seed).normal(0, 3, size=(SIDE_PX, SIDE_PX, 1))
    pixels = np.clip(np.array(BACKGROUNDS[ground]) + noise, 0, 255).astype(np.uint8)
    boxes: list[Box] = []
    lines = _wrapped(caption, font)
    top = rng.randint(_MARGIN_PX, SIDE_PX - _MARGIN_PX - round(1.3 * size_px * len(lines)))
    for number, line in enumerate(lines):
        left, above, right, below = map(round, font.getbbox(line))
        y = top + round(1.3 * size_px * number)
        boxes.append((_MARGIN_PX, y, _MARGIN_PX + right - left, y + below - above))
        pixels = _write(pixels, font, line, boxes[-1], colour=COLORS[colour])
    planted = PlantedText(
        text=caption, script="Latin", size_px=size_px, contrast=CONTRASTS[0], boxes=tuple(boxes)
    )
    return TextPicture(
        pixels=pixels, caption=caption, is_drawn=True, planted=planted, is_only_text=True
    )


def _wrapped(text: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Its words in lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= SIDE_PX - 2 * _MARGIN_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _under(pixels: npt.NDArray[np.uint8], place: Box) -> npt.NDArray[np.uint8]:
    left, top, right, bottom = place
    return pixels[top:bottom, left:right]


def _unrest_of(pixels: npt.NDArray[np.uint8]) -> Callable[[Box], float]:
    """How far the pixels of a place are from one colour."""
    return lambda place: float(_under(pixels, place).std(axis=(0, 1)).mean())


def _farthest(colour: str, rng: random.Random) -> str:
    """One of the backgrounds on which a colour can be read."""
    ink = _brightness(COLORS[colour])
    far = [n for n, rgb in BACKGROUNDS.items() if abs(_brightness(rgb) - ink) >= CONTRASTS[0]]
    return rng.choice(sorted(far))


def _fitting(
    words: Sequence[str], font: ImageFont.FreeTypeFont, rng: random.Random, *, joined: str
) -> str:
    """One to three words of the list, as many as the picture is wide for."""
    chosen = rng.sample(list(words), rng.randint(1, 3))
    while len(chosen) > 1 and font.getlength(joined.join(chosen)) > SIDE_PX - 2 * _MARGIN_PX:
        chosen.pop()
    text = joined.join(chosen)
    while font.getlength(text) > SIDE_PX - 2 * _MARGIN_PX:
        text = text[:-1]
    return text


def _place(font: ImageFont.FreeTypeFont, text: str, rng: random.Random) -> Box:
    """The box of the ink, anywhere in the picture."""
    left, top, right, bottom = map(round, font.getbbox(text))
    x = rng.randint(_MARGIN_PX, max(_MARGIN_PX, SIDE_PX - _MARGIN_PX - (right - left)))
    y = rng.randint(_MARGIN_PX, SIDE_PX - _MARGIN_PX - (bottom - top))
    return x, y, x + right - left, y + bottom - top


def _write(
    pixels: npt.NDArray[np.uint8],
    font: ImageFont.FreeTypeFont,
    text: str,
    place: Box,
    *,
    colour: tuple[int, int, int],
) -> npt.NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    left, top, *_ = font.getbbox(text)
    ImageDraw.Draw(image).text((place[0] - left, place[1] - top), text, font=font, fill=colour)
    return np.asarray(image)


def _ink(under: npt.NDArray[np.float64], contrast: int) -> tuple[int, int, int]:
    """A grey that far from what is under it, on the side that leaves more."""
    brightness = _brightness(under)
    grey = brightness + contrast if brightness < 128 else brightness - contrast
    return (round(min(max(grey, 0), 255)),) * 3


def _brightness(rgb: Sequence[float] | npt.NDArray[np.float64]) -> float:
    return float(np.dot(np.asarray(rgb, np.float64), (0.299, 0.587, 0.114)))
