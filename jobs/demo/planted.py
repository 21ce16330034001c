"""Drawn pictures with planted truth for the rules and duplicates of select."""

import hashlib
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from PIL import Image, ImageEnhance

from jobs.demo.url_list import ListRow
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, FLAWS, Flaw, draw

PLANTED_SEED: Final = FIRST_HELD_OUT_SEED + 30_000_000
SINGLE: Final = "single"
EXACT_COPY: Final = "exact copy"
RE_ENCODED: Final = "re-encoded or resized"
CHANGED: Final = "cropped or recoloured"
FLAWED: Final = "flawed"
WRONG_CAPTION: Final = "wrong caption"
BLOCKED: Final = "on a block list"
BLOCKED_WORD: Final = "xyzzy"

_SHARES = {  # of 5,000 pictures; the rest are single
    EXACT_COPY: 300,
    RE_ENCODED: 300,
    CHANGED: 300,
    FLAWED: 500,
    WRONG_CAPTION: 200,
    BLOCKED: 150,
}
_OF = 5_000
_SHORT_SIDES_PX = (64, 160)
_MAX_ASPECT = 1.6
_MAX_CUT = 0.06  # of a side, from each of the four
_BRIGHTER, _RICHER = 0.08, 0.15
_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True, kw_only=True)
class PlantedRow(ListRow):
    """A row of the list; `original` is the URL of the picture that it copies, if any."""

    original: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlantedSet:
    """The list, and what is to be blocked by each kind of list."""

    rows: Sequence[PlantedRow]
    urls: Sequence[str]
    sha256: Sequence[str]


def write_planted(folder: Path, *, count: int, server: str, seed: int = PLANTED_SEED) -> PlantedSet:
    """Draw pictures into a folder; of 5,000: 300 exact copies, 300 re-encoded or resized, 300
    slightly cropped or recoloured, 500 flawed, 200 with a wrong caption, 150 on a block list.

    A copy is of a single picture and comes after it in the list; no picture is copied twice.

    Args:
        folder: Gets one file a picture; it must exist.
        count: Pictures, copies included.
        server: The URL under which the folder will be served.
        seed: First seed; held out, so that no recipe and no choice of a threshold has seen it.
    """
    rng = random.Random(seed)
    counts = {kind: round(count * share / _OF) for kind, share in _SHARES.items()}
    artist = _Artist(folder, server=server, seed=seed, rng=rng)
    kinds: list[str] = []
    for kind in (FLAWED, WRONG_CAPTION, BLOCKED):
        kinds += [kind] * counts[kind]
    kinds += [SINGLE] * (count - sum(counts.values()))
    rng.shuffle(kinds)
    rows = [artist.draw(kind) for kind in kinds]
    blocked = [row for row in rows if row.planted == BLOCKED]
    by_url, by_bytes, by_word = blocked[::3], blocked[1::3], {row.url for row in blocked[2::3]}
    rows = [
        replace(row, caption=f"{row.caption}, {BLOCKED_WORD}") if row.url in by_word else row
        for row in rows
    ]
    copied = [kind for kind in (EXACT_COPY, RE_ENCODED, CHANGED) for _ in range(counts[kind])]
    originals = rng.sample([row for row in rows if row.planted == SINGLE], len(copied))
    at = {row.url: place for place, row in enumerate(rows)}
    placed = [(float(place), row) for place, row in enumerate(rows)]
    for kind, original in zip(copied, originals, strict=True):
        place = rng.uniform(at[original.url], len(rows))
        placed.append((place, artist.copy(original, kind)))
    return PlantedSet(
        rows=[row for _, row in sorted(placed, key=lambda pair: pair[0])],
        urls=[row.url for row in by_url],
        sha256=[artist.digest(row) for row in by_bytes],
    )


class _Artist:
    """Draws files one after the other, each from the next seed."""

    def __init__(self, folder: Path, *, server: str, seed: int, rng: random.Random) -> None:
        self._folder, self._server, self._rng = folder, server, rng
        self._seed, self._number = seed, 0

    def draw(self, kind: str) -> PlantedRow:
        rng = self._rng
        short = rng.randint(*_SHORT_SIDES_PX)
        long = round(short * rng.uniform(1.0, _MAX_ASPECT))
        width, height = (long, short) if rng.random() < 0.5 else (short, long)
        flaw: Flaw | None = None
        if kind == FLAWED:
            flaw = FLAWS[self._number % 3]
        elif kind == WRONG_CAPTION:
            flaw = "wrong_caption"
        picture = draw(self._seed + self._number, width=width, height=height, flaw=flaw)
        suffix = rng.choice(sorted(_FORMATS))
        content = _encode(Image.fromarray(picture.image), suffix, rng.randint(85, 95))
        return self._write(content, suffix, caption=picture.caption, kind=kind)

    def copy(self, original: PlantedRow, kind: str) -> PlantedRow:
        source = self._folder / original.url.rpartition("/")[2]
        suffix = source.suffix[1:]
        content = source.read_bytes()
        if kind != EXACT_COPY:
            change = _re_encode if kind == RE_ENCODED else _change
            with Image.open(source) as image:
                suffix, content = change(image.convert("RGB"), self._rng)
        row = self._write(content, suffix, caption=original.caption, kind=kind)
        return replace(row, original=original.url)

    def digest(self, row: PlantedRow) -> str:
        content = (self._folder / row.url.rpartition("/")[2]).read_bytes()
        return hashlib.sha256(content).hexdigest()

    def _write(self, content: bytes, suffix: str, *, caption: str, kind: str) -> PlantedRow:
        name = f"{self._number:05d}.{suffix}"
        self._number += 1
        (self._folder / name).write_bytes(content)
        return PlantedRow(url=f"{self._server}/{name}", caption=caption, planted=kind)


def _re_encode(image: Image.Image, rng: random.Random) -> tuple[str, bytes]:
    if rng.random() < 0.5:
        return "jpg", _encode(image, "jpg", rng.randint(60, 90))
    scale = max(rng.uniform(0.6, 1.5), _SHORT_SIDES_PX[0] / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    suffix = rng.choice(sorted(_FORMATS))
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return suffix, _encode(resized, suffix, rng.randint(70, 95))


def _change(image: Image.Image, rng: random.Random) -> tuple[str, bytes]:
    if rng.random() < 0.5:
        left, top, right, bottom = (rng.uniform(0, _MAX_CUT) for _ in range(4))
        box = (
            round(left * image.width),
            round(top * image.height),
            round((1 - right) * image.width),
            round((1 - bottom) * image.height),
        )
        image = image.crop(box)
        scale = max(1.0, _SHORT_SIDES_PX[0] / min(image.size))
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
    else:
        changes: list[tuple[Callable[..., ImageEnhance._Enhance], float]] = [
            (ImageEnhance.Color, _RICHER),
            (ImageEnhance.Brightness, _BRIGHTER),
            (ImageEnhance.Contrast, _BRIGHTER),
        ]
        for change, most in changes:
            image = change(image).enhance(rng.uniform(1 - most, 1 + most))
    return "jpg", _encode(image, "jpg", rng.randint(80, 95))


def _encode(image: Image.Image, suffix: str, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, _FORMATS[suffix], quality=quality)
    return stream.getvalue()
