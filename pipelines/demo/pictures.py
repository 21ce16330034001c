"""The demo's input: drawn pictures as files, and the list that names them and what is wrong."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipelines.demo.recall import DUPLICATE_ROW, GOOD
from pipelines.demo.url_list import ListRow
from sd_core.presets.flaws import Flaw
from sd_core.presets.plan import PictureSpec, encode_image, plan_pictures, render

DEMO_SEED: Final = 20_000_000  # held out: no recipe draws from these seeds
_FLAWED_SHARE = 0.4
_SUFFIX = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def write_pictures(
    folder: Path, *, count: int, num_repeated: int, server: str, seed: int = DEMO_SEED
) -> list[ListRow]:
    """Draw pictures of many sizes and formats into a folder, some with planted flaws.

    Args:
        folder: Gets one file a picture; it must exist.
        count: Pictures; two in five are flawed, exact copies among them.
        num_repeated: List rows that come once more at the end, URL, caption and all.
        server: The URL under which the folder will be served.
        seed: First held-out seed.

    Returns:
        The rows in list order: each exact copy comes after its original.
    """
    specs = plan_pictures(seed, count=count, flawed_share=_FLAWED_SHARE)
    rows = []
    for place in _originals_first(specs):
        spec = specs[place]
        name = f"{place:05d}.{_SUFFIX[spec.image_format]}"
        picture = render(spec)
        content = encode_image(picture.image, image_format=spec.image_format, quality=spec.quality)
        (folder / name).write_bytes(content)
        planted = GOOD if spec.flaw is None else spec.flaw.value
        rows.append(ListRow(url=f"{server}/{name}", caption=picture.caption, planted=planted))
    again = random.Random(seed).sample(rows, num_repeated)
    repeated = [ListRow(url=row.url, caption=row.caption, planted=DUPLICATE_ROW) for row in again]
    return rows + repeated


def _originals_first(specs: Sequence[PictureSpec]) -> list[int]:
    """Places in the plan's order, a copy that precedes its original exchanged with it."""
    order = list(range(len(specs)))
    for place, spec in enumerate(specs):
        original = spec.copy_of
        if spec.flaw is Flaw.EXACT_COPY and original is not None and place < original:
            order[place], order[original] = original, place
    return order
