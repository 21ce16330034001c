"""The planted texts, and the table of what was found of them; no time is asserted."""

from pathlib import Path

import pytest
from PIL import Image

from jobs.bench import text_set
from jobs.bench.text import TextBench, measure_text, text_findings_table
from jobs.bench.text_set import SIDE_PX, SIZES_PX, drawn_pictures, find_chinese_font, fonts_of
from sd_core.errors import InputError


def test_half_of_the_pictures_have_text_where_they_say() -> None:
    fonts = fonts_of(None)
    pictures = [*drawn_pictures(8, fonts=fonts)]
    assert [picture.planted is None for picture in pictures] == [True] * 4 + [False] * 4
    assert [picture.is_only_text for picture in pictures] == [False] * 7 + [True]
    assert pictures[7].planted is not None
    assert pictures[7].planted.text == pictures[7].caption
    again = [*drawn_pictures(8, fonts=fonts)]
    for picture, same in zip(pictures, again, strict=True):
        assert (picture.pixels == same.pixels).all()
        for left, top, right, bottom in picture.planted.boxes if picture.planted else ():
            assert 0 <= left < right <= SIDE_PX
            assert 0 <= top < bottom <= SIDE_PX
            assert picture.pixels[top:bottom, left:right].std() > 8


def test_the_bench_tells_what_was_found_and_without_a_font_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_set, "CHINESE_FONTS", ())
    with pytest.raises(InputError, match="apt-get install fonts-noto-cjk, or give one"):
        find_chinese_font(None)
    Image.new("RGB", (96, 64), (200, 90, 40)).save(tmp_path / "1.jpg")
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "2.jpg")
    font = fonts_of(None)["Latin"][0]
    bench = TextBench(pictures=8, photos=tmp_path, chinese_font=font)
    findings = measure_text(bench, say=lambda line: None)
    assert sum(count for count, _, _ in findings.found.values()) == 5
    assert {name.rpartition(" ")[0].rpartition(" ")[2] for name in findings.found} <= {
        str(size) for size in SIZES_PX
    }
    assert findings.false_alarms == {"drawn": 0, "photographs": 0}
    assert 0 < findings.memory_bytes < 700_000_000
    assert findings.per_second.keys() >= {"text", "without_text", "open_nsfw"}
    table = text_findings_table(findings)
    assert "found where there is none: drawn 0.0%, photographs 0.0% (at most 3%)" in table
    assert "without the text, by preset:tiny/clip" in table
