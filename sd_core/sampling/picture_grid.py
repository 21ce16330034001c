"""A grid of generated pictures, each over what was asked for, marked where a judge disagrees."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

_SIDE, _GAP, _LINE, _LINES, _CHARACTERS = 128, 8, 12, 5, 24
_GOOD, _BAD, _TEXT, _PAPER = (60, 150, 80), (205, 40, 40), (40, 40, 40), (250, 250, 250)


@dataclass(frozen=True)
class Cell:
    """A picture uint8 (h, w, 3), lines of what it should show, and what is wrong with it, if so."""

    image: npt.NDArray[np.uint8]
    lines: tuple[str, ...]
    fault: str | None = None
    is_judged: bool = True


def picture_grid(cells: Sequence[Cell], *, columns: int = 10) -> Image.Image:
    """Draw the cells row by row; a judged one has a frame, red and with its fault if it has one."""
    width, height = _SIDE + _GAP, _SIDE + _GAP + _LINES * _LINE
    rows = -(-len(cells) // columns)
    grid = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    brush = ImageDraw.Draw(grid)
    for index, cell in enumerate(cells):
        x, y = _GAP + index % columns * width, _GAP + index // columns * height
        _draw_cell(grid, brush, cell, x, y)
    return grid


def _draw_cell(grid: Image.Image, brush: ImageDraw.ImageDraw, cell: Cell, x: int, y: int) -> None:
    picture = Image.fromarray(cell.image).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
    frame = (x - 3, y - 3, x + _SIDE + 2, y + _SIDE + 2)
    if cell.is_judged:
        brush.rectangle(frame, outline=_GOOD if cell.fault is None else _BAD, width=3)
    grid.paste(picture, (x, y))
    lines = [(line, _TEXT) for line in cell.lines]
    lines += [(line, _BAD) for line in textwrap.wrap(cell.fault or "", _CHARACTERS)]
    for number, (line, color) in enumerate(lines[:_LINES]):
        brush.text((x, y + _SIDE + 3 + number * _LINE), line, fill=color)
