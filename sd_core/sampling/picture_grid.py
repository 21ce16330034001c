"""A grid of pictures, each over what is said of it, marked where a judge disagrees."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 250)
INK: Colour = (40, 40, 40)
GOOD: Colour = (60, 150, 80)
BAD: Colour = (205, 40, 40)
_GAP, _LINES, _CHARACTERS = 8, 9, 24


@dataclass(frozen=True)
class Line:
    """A line under a picture."""

    text: str
    colour: Colour = INK


@dataclass(frozen=True)
class Cell:
    """A picture uint8 (h, w, 3), lines about it, and what is wrong with it, if so."""

    image: npt.NDArray[np.uint8]
    lines: Sequence[Line] = ()
    fault: str | None = None
    is_judged: bool = False

    @property
    def all_lines(self) -> list[Line]:
        """As many as are drawn, with the fault's."""
        wrong = [Line(text, BAD) for text in textwrap.wrap(self.fault or "", _CHARACTERS)]
        return [*self.lines, *wrong][:_LINES]


def picture_grid(
    cells: Sequence[Cell],
    *,
    columns: int = 10,
    side: int = 128,
    text_px: int = 10,
    resample: Image.Resampling = Image.Resampling.NEAREST,
) -> Image.Image:
    """Draw the cells row by row; a judged one has a frame, red and with its fault if it has one.

    Args:
        cells: At least one; the first one's picture says what shape all are drawn in.
        side: Pictures are this wide, in pixels.
        text_px: The letters' size.
        resample: How pictures are brought to that size.
    """
    font, line_px = ImageFont.load_default(text_px), text_px * 5 // 4
    size = side, side * cells[0].image.shape[0] // cells[0].image.shape[1]
    text_height = max(len(cell.all_lines) for cell in cells) * line_px
    width, height = side + _GAP, size[1] + _GAP + text_height
    shape = (columns * width + _GAP, -(-len(cells) // columns) * height + _GAP)
    grid = Image.new("RGB", shape, PAPER)
    brush = ImageDraw.Draw(grid)
    for index, cell in enumerate(cells):
        x, y = _GAP + index % columns * width, _GAP + index // columns * height
        if cell.is_judged:
            frame = (x - 3, y - 3, x + size[0] + 2, y + size[1] + 2)
            brush.rectangle(frame, outline=GOOD if cell.fault is None else BAD, width=3)
        grid.paste(Image.fromarray(cell.image).resize(size, resample), (x, y))
        for number, line in enumerate(cell.all_lines):
            where = (x, y + size[1] + 3 + number * line_px)
            brush.text(where, line.text, font=font, fill=line.colour)
    return grid
