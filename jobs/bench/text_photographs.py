"""Photographs as they are, and with text of known place drawn on them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from jobs.bench.text_set import SIDE_PX, TEXT_SEED, Script, TextPicture, plant

# Of COCO, with writing of their own, by eye: on packets, signs, shirts, screens, maps.
_WITH_WRITING = (
    "11813 18575 22192 34417 63217 69468 73326 84284 100667 107438 109313 114174 116270 "
    "121647 125870 129648 153797 155341 172648 174375 174632 183709 192699 194322 205401 "
    "211891 213148 215657 217285 227000 229358 231125 231460 232357 252639 255165 262227 "
    "275791 284218 311002 328683 332078 349860 350679 359219 370208 379349 407574 409194 "
    "418049 423617 433998 434204 460229 466547 475678 482585 516008 516916 525891 530836 "
    "535506 538113 539216 544238 551757 551780 553664 568290"
)
WITH_WRITING: Final = frozenset(f"{int(number):012d}.jpg" for number in _WITH_WRITING.split())


def photographs(
    folder: Path, *, fonts: dict[Script, list[Path]], seed: int = TEXT_SEED
) -> Iterator[TextPicture]:
    """The photographs of a folder, their middles; half get text, first those with writing.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(folder.glob("*.jpg"), key=lambda path: (path.name not in WITH_WRITING, path))
    if not files:
        raise FileNotFoundError(f"no .jpg photographs in {folder}; give another --photos")
    rng = random.Random(seed)
    captions = _captions(folder)
    for number, path in enumerate(files):
        picture = TextPicture(
            pixels=_middle(path),
            caption=captions.get(path.name, ""),
            is_drawn=False,
            has_writing=path.name in WITH_WRITING,
        )
        is_planted = number < len(files) / 2 or picture.has_writing
        yield plant(picture, fonts, rng, turn=number) if is_planted else picture


def _middle(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))


def _captions(folder: Path) -> dict[str, str]:
    path = folder / "captions.jsonl"
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["file"]: row["captions"][0] for row in rows}
