"""Lists whose captions are several: one is chosen, and no choice changes a key."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import verify
from tests.contracts.source_cases import ledger, picture, run_job
from tests.contracts.ways_in import Pictures, write_source

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

CAPTIONS: list[list[str | None]] = [
    *([f"a{n}", f"the longest of {n}", f"another one {n}"] for n in range(5)),
    [None, " ", "not blank"],
    [],
]
FIRST = [*(f"a{n}" for n in range(5)), "not blank", None]
LONGEST = [*(f"the longest of {n}" for n in range(5)), "not blank", None]


DRAWN = Pictures([picture(30 * number) for number in range(1, len(CAPTIONS) + 1)], CAPTIONS)
"""Photographs come in by every way in `test_every_way_in.py`."""


@pytest.mark.parametrize("name", ["jsonl", "huggingface"])
def test_of_several_captions_one_is_chosen_and_all_stay(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = write_source(name, DRAWN, tmp_path / "in")
    found = {}
    for choice in ("first", "longest", "random"):
        output = tmp_path / choice
        assert run_job(tmp_path / "in", output, *options, f"source.captions={choice}") == 0
        assert "source.captions chooses nothing" not in capsys.readouterr().out
        found[choice] = ledger(output)
        assert [row["key"] for row in found[choice]] == [row["key"] for row in found["first"]]
        stored = [json.loads(row["source_caption"] or "[]") for row in found[choice]]
        assert stored == CAPTIONS
        assert verify.main([str(output), "--deep"]) == 0
    assert [row["caption"] for row in found["longest"]] == LONGEST
    assert [row["caption"] for row in found["first"]] == FIRST
    drawn = [row["caption"] for row in found["random"]]
    allowed = zip(drawn, CAPTIONS, strict=True)
    assert all(text in (texts or [None]) and text != " " for text, texts in allowed)
    assert drawn not in (FIRST, LONGEST)


def test_rows_of_one_url_and_one_first_caption_are_the_same_row_whichever_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.jpg").write_bytes(picture(30))
    lists = [["a", "b"], ["a", "longer"], ["c"]]
    pq.write_table(pa.table({"url": ["1.jpg"] * 3, "text": lists}), tmp_path / "list.parquet")
    given = (f"source.files_root={tmp_path}", "source.captions=longest", "select.duplicates=off")
    assert run_job(tmp_path / "list.parquet", tmp_path / "run", *given) == 0
    rows = [(row["caption"], row["reason"]) for row in ledger(tmp_path / "run")]
    assert rows == [("a", None), ("longer", "duplicate_row"), ("c", None)]
    pq.write_table(pa.table({"url": ["1.jpg"], "text": ["a"]}), tmp_path / "plain.parquet")
    assert run_job(tmp_path / "plain.parquet", tmp_path / "plain", *given) == 0
    assert "source.captions chooses nothing: captions are single" in capsys.readouterr().out


def test_captions_that_are_lists_are_refused_until_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    given = write_source("parquet_images", DRAWN, source)[0]
    assert run_job(source, tmp_path / "run", given) == 2
    assert "set source.captions to first, longest or random" in capsys.readouterr().err
    assert run_job(source, tmp_path / "run", given, "source.captions=all") == 2
    assert "the latent cache holds one text a row" in capsys.readouterr().err
    assert run_job(source, tmp_path / "run", given, "source.captions=first") == 0
    assert run_job(source, tmp_path / "run", given, "source.captions=longest") == 2
    assert "source.captions: 'first' when planned, 'longest' now" in capsys.readouterr().err
    options = write_source("jsonl", DRAWN, tmp_path / "lines")
    assert run_job(tmp_path / "lines", tmp_path / "urls", *options) == 4
    told = "is a list of texts; set source.captions to first, longest or random"
    assert f"source: the caption of rows {told} (7)" in capsys.readouterr().out
    assert ledger(tmp_path / "urls")[0]["error_message"] == f"caption {told}"
