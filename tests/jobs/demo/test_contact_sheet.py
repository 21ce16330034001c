"""The contact sheet: what it shows, and that it is the same every time."""

import io
from pathlib import Path

from PIL import Image

from jobs.demo.contact_sheet import choose_rows, draw_contact_sheet
from jobs.demo.outcome import DemoOutcome


def outcome(
    number: int, *, reason: str | None, planted: str, has_image: bool = True
) -> DemoOutcome:
    """A row numbered `number`."""
    return DemoOutcome(
        shard_id=0,
        key=f"{number:016x}",
        url=None,
        caption="a large red circle in the center on a white background" if number % 3 else None,
        kept=reason is None,
        reason=reason,
        rule=None if reason is None else "aesthetic_v1 >= 5",
        clip_similarity=0.5,
        aesthetic=7.25,
        has_image=has_image,
        planted=planted,
    )


def jpeg(colour: str) -> bytes:
    """A small picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "JPEG", quality=100, subsampling=0)
    return stream.getvalue()


ROWS = [
    *(outcome(n, reason=None, planted="good") for n in range(100)),
    *(outcome(n, reason="aesthetic_v1_below_min", planted="blur") for n in range(100, 160)),
    *(outcome(n, reason="aesthetic_v1_below_min", planted="noise") for n in range(160, 163)),
    outcome(163, reason="duplicate_bytes", planted="exact_copy"),
    outcome(164, reason="http_gone", planted="bad_url:gone", has_image=False),
    outcome(165, reason="http_gone", planted="bad_url:gone", has_image=False),
]


def test_every_planted_kind_is_shown_under_its_reason():
    selection = choose_rows(ROWS)
    by_name = {group.name: group for group in selection.dropped}
    assert {row.planted for row in by_name["aesthetic_v1_below_min"].shown} == {"blur", "noise"}
    assert by_name["aesthetic_v1_below_min"].rows == 63
    assert sum(r.planted == "noise" for r in by_name["aesthetic_v1_below_min"].shown) == 3
    assert [row.key for row in by_name["duplicate_bytes"].shown] == [f"{163:016x}"]


def test_kept_rows_are_taken_from_the_whole_run():
    kept = choose_rows(ROWS).kept
    assert kept.rows == 100
    numbers = [int(row.key, 16) for row in kept.shown]
    assert numbers[0] == 0
    assert numbers[-1] > 90


def test_rows_without_a_picture_are_counted():
    assert choose_rows(ROWS).without_image == {"http_gone": 2}


def test_the_sheet_holds_the_pictures_and_is_the_same_twice(tmp_path: Path):
    selection = choose_rows(ROWS)
    images = {row.key: jpeg("blue" if row.kept else "red") for row in selection.shown}
    for name in ("a.png", "b.png"):
        draw_contact_sheet(selection, images, tmp_path / name, title="166 rows")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        colours = [colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)]
    assert any(b > 240 and r < 15 and g < 15 for r, g, b in colours)
    assert any(r > 240 and g < 15 and b < 15 for r, g, b in colours)
