"""A contact sheet: pictures that were kept, and pictures that were dropped, each with why."""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from jobs.demo.outcome import DemoOutcome
from sd_core.sampling.picture_grid import BAD, GOOD, INK, PAPER, Cell, Colour, Line, picture_grid

_COLUMNS = 8
_KEPT_SHOWN = 3 * _COLUMNS
_SHOWN_A_REASON = 2 * _COLUMNS

_TILE_PX = 144
_MARGIN_PX = 24
_TEXT_PX = 13
_LINE_PX = 17
_HEADING_PX = 22
_WIDTH_PX = 2 * _MARGIN_PX + _COLUMNS * (_TILE_PX + 8) + 8

_GREY = (104, 104, 104)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under one heading: how many there are, and the ones that are shown."""

    name: str
    rows: int
    shown: Sequence[DemoOutcome]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a sheet shows: some kept rows, some dropped rows by reason, and rows without image."""

    kept: Group
    dropped: Sequence[Group]
    without_image: Mapping[str, int]

    @property
    def shown(self) -> list[DemoOutcome]:
        """Every row whose picture the sheet needs."""
        return [row for group in (self.kept, *self.dropped) for row in group.shown]


def choose_rows(outcomes: Iterable[DemoOutcome]) -> Selection:
    """Take rows evenly over the run, and under each reason some of every planted kind."""
    kept: list[DemoOutcome] = []
    dropped: dict[str, list[DemoOutcome]] = {}
    without_image: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.kept:
            kept.append(outcome)
        elif outcome.has_image:
            dropped.setdefault(outcome.reason or "", []).append(outcome)
        else:
            reason = outcome.reason or ""
            without_image[reason] = without_image.get(reason, 0) + 1
    groups = [
        Group(name=reason, rows=len(rows), shown=_some_of_each_kind(rows, _SHOWN_A_REASON))
        for reason, rows in sorted(dropped.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return Selection(
        kept=Group(name="kept", rows=len(kept), shown=_evenly(kept, _KEPT_SHOWN)),
        dropped=groups,
        without_image=dict(sorted(without_image.items(), key=lambda item: (-item[1], item[0]))),
    )


def draw_contact_sheet(
    selection: Selection, images: Mapping[str, bytes], path: Path, *, title: str
) -> None:
    """Write the sheet as a PNG; the same rows give the same pixels.

    Args:
        selection: From `choose_rows`.
        images: Stored JPEG by key, of every row in `selection.shown`.
        path: Where the PNG goes.
        title: The sheet's first line.
    """
    pages = [_heading(title, INK)]
    pages.append(_heading(f"kept: {selection.kept.rows:,}", GOOD))
    pages += _grid(selection.kept.shown, images)
    for group in selection.dropped:
        note = "" if len(group.shown) == group.rows else f" ({len(group.shown)} shown)"
        pages.append(_heading(f"dropped, {group.name}: {group.rows:,}{note}", BAD))
        pages += _grid(group.shown, images)
    if selection.without_image:
        total = sum(selection.without_image.values())
        pages.append(_heading(f"dropped before there was a picture: {total:,}", BAD))
        pages.append(_counts(selection.without_image))
    height = sum(page.height for page in pages) + 2 * _MARGIN_PX
    sheet = Image.new("RGB", (_WIDTH_PX, height), PAPER)
    top = _MARGIN_PX
    for page in pages:
        sheet.paste(page, (_MARGIN_PX, top))
        top += page.height
    sheet.save(path, "PNG")


def _evenly(rows: Sequence[DemoOutcome], count: int) -> list[DemoOutcome]:
    if len(rows) <= count:
        return list(rows)
    return [rows[index * len(rows) // count] for index in range(count)]


def _some_of_each_kind(rows: Sequence[DemoOutcome], count: int) -> list[DemoOutcome]:
    kinds: dict[str, list[DemoOutcome]] = {}
    for row in rows:
        kinds.setdefault(row.planted or "", []).append(row)
    shares = dict.fromkeys(kinds, 0)
    while sum(shares.values()) < min(count, len(rows)):
        open_kinds = [kind for kind in sorted(kinds) if shares[kind] < len(kinds[kind])]
        shares[min(open_kinds, key=lambda kind: shares[kind])] += 1
    return [row for kind in sorted(kinds) for row in _evenly(kinds[kind], shares[kind])]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _strip(height: int) -> Image.Image:
    return Image.new("RGB", (_WIDTH_PX - 2 * _MARGIN_PX, height), PAPER)


def _heading(text: str, colour: Colour) -> Image.Image:
    strip = _strip(_HEADING_PX + 26)
    ImageDraw.Draw(strip).text((0, 12), text, font=_font(_HEADING_PX), fill=colour)
    return strip


def _grid(rows: Sequence[DemoOutcome], images: Mapping[str, bytes]) -> list[Image.Image]:
    cells = [Cell(_pixels(images[row.key]), _notes(row)) for row in rows]
    if not cells:
        return []
    how = Image.Resampling.LANCZOS
    grid = picture_grid(cells, columns=_COLUMNS, side=_TILE_PX, text_px=_TEXT_PX, resample=how)
    return [grid]


def _pixels(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _notes(row: DemoOutcome) -> list[Line]:
    """The lines under a picture: caption, scores, the rule it failed, what was planted."""
    lines = [Line(text) for text in _wrap(row.caption or "(no caption)", num_lines=4)]
    scores = [("aesthetic", row.aesthetic), ("similarity", row.clip_similarity)]
    lines += [Line(f"{name} {value:.2f}", _GREY) for name, value in scores if value is not None]
    if row.rule:
        lines += [Line(text, BAD) for text in _wrap(row.rule, num_lines=2)]
    if row.planted:
        lines += [Line(text, _GREY) for text in _wrap(f"planted: {row.planted}", num_lines=1)]
    return lines


def _wrap(text: str, *, num_lines: int) -> list[str]:
    """Break text at spaces to a tile's width; what does not fit is cut with an ellipsis."""
    lines: list[str] = []
    current = ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if current and not _fits(longer):
            lines.append(current)
            longer = word
        current = longer
    lines.append(current)
    if len(lines) > num_lines:
        lines = [*lines[: num_lines - 1], " ".join(lines[num_lines - 1 :])]
    return [_cut(line) for line in lines]


def _cut(line: str) -> str:
    if _fits(line):
        return line
    while line and not _fits(line + "…"):
        line = line[:-1]
    return line + "…"


def _fits(text: str) -> bool:
    return _font(_TEXT_PX).getlength(text) <= _TILE_PX


def _counts(counts: Mapping[str, int]) -> Image.Image:
    items = [f"{count:,}  {reason}" for reason, count in counts.items()]
    num_columns = 4
    rows = -(-len(items) // num_columns)
    strip = _strip(rows * _LINE_PX + _LINE_PX)
    pen = ImageDraw.Draw(strip)
    for index, text in enumerate(items):
        column, row = divmod(index, rows)
        where = (column * strip.width // num_columns, row * _LINE_PX)
        pen.text(where, text, font=_font(_TEXT_PX), fill=INK)
    return strip
