"""The demo's input: drawn pictures as files of many kinds, and the list rows that name them."""

import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Final

from PIL import Image

from jobs.demo.recall import DUPLICATE_ROW, GOOD
from jobs.demo.url_list import ListRow
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, PictureSpec, draw, plan_pictures

DEMO_SEED: Final = FIRST_HELD_OUT_SEED + 10_000_000
COPY: Final = "exact_copy"

_FLAWED_SHARE = 0.35  # the copies come on top
_PICTURES_A_COPY = 12
_PICTURES_A_REPEAT = 40
_SHORT_SIDES_PX = (64, 160)
_MAX_ASPECT = 1.6
_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


def write_pictures(
    folder: Path, *, count: int, server: str, seed: int = DEMO_SEED
) -> list[ListRow]:
    """Draw pictures of many sizes and formats into a folder, some with planted flaws.

    Args:
        folder: Gets one file a picture; it must exist.
        count: Pictures, without the exact copies (a twelfth more) and repeated rows (a fortieth).
        server: The URL under which the folder will be served.
        seed: First seed; a held-out one, so that no recipe has seen the pictures.

    Returns:
        The rows in list order: an exact copy, and a repeated row, comes after its original.
    """
    rng = random.Random(seed)
    specs = plan_pictures(seed, count, flawed_share=_FLAWED_SHARE)
    rows = [
        _write_picture(folder, f"{place:05d}", spec, server=server, rng=rng)
        for place, spec in enumerate(specs)
    ]
    good = [row for row in rows if row.planted == GOOD]
    for original in rng.sample(good, count // _PICTURES_A_COPY):
        _insert_after(rows, original, _copy_file(folder, original), rng=rng)
    for original in rng.sample(rows, count // _PICTURES_A_REPEAT):
        _insert_after(rows, original, replace(original, planted=DUPLICATE_ROW), rng=rng)
    return rows


def _write_picture(
    folder: Path, stem: str, spec: PictureSpec, *, server: str, rng: random.Random
) -> ListRow:
    short = rng.randint(*_SHORT_SIDES_PX)
    long = round(short * rng.uniform(1.0, _MAX_ASPECT))
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    suffix = rng.choice(sorted(_FORMATS))
    picture = draw(spec.seed, width=width, height=height, flaw=spec.flaw)
    stream = io.BytesIO()
    Image.fromarray(picture.image).save(stream, _FORMATS[suffix], quality=rng.randint(85, 95))
    (folder / f"{stem}.{suffix}").write_bytes(stream.getvalue())
    return ListRow(
        url=f"{server}/{stem}.{suffix}", caption=picture.caption, planted=spec.flaw or GOOD
    )


def _copy_file(folder: Path, original: ListRow) -> ListRow:
    base, _, name = original.url.rpartition("/")
    (folder / f"copy-{name}").write_bytes((folder / name).read_bytes())
    return replace(original, url=f"{base}/copy-{name}", planted=COPY)


def _insert_after(
    rows: list[ListRow], original: ListRow, row: ListRow, *, rng: random.Random
) -> None:
    rows.insert(rng.randint(rows.index(original) + 1, len(rows)), row)
