"""Lists whose captions are several: one is chosen, and no choice changes a key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import verify
from tests.contracts.source_cases import ledger, picture, run_job, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

CAPTIONS: list[list[str | None]] = [
    *([f"a{n}", f"the longest of {n}", f"another one {n}"] for n in range(5)),
    [None, " ", "not blank"],
    [],
]
FIRST = [*(f"a{n}" for n in range(5)), "not blank", None]
LONGEST = [*(f"the longest of {n}" for n in range(5)), "not blank", None]


def _rows() -> dict[str, list[Any]]:
    pictures = [picture(30 * number) for number in range(1, len(CAPTIONS) + 1)]
    return {"image": pictures, "caption": CAPTIONS}


def _parquet(folder: Path) -> Path:
    pq.write_table(pa.table(_rows()), folder / "set.parquet", row_group_size=2)
    return folder / "set.parquet"


def _huggingface(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict(_rows()).save_to_disk(str(folder / "set"))
    return folder / "set"


def _tar(folder: Path) -> Path:
    members = []
    for number, (content, texts) in enumerate(zip(*_rows().values(), strict=True)):
        told = json.dumps({"caption": texts}).encode()
        members += [(f"{number}.jpg", content), (f"{number}.json", told)]
    return write_tar(folder / "set.tar", members)


def _folder(folder: Path) -> Path:
    (folder / "set").mkdir()
    lines = []
    for number, (content, texts) in enumerate(zip(*_rows().values(), strict=True)):
        (folder / f"set/{number}.jpg").write_bytes(content)
        lines.append(json.dumps({"file_name": f"{number}.jpg", "caption": texts}) + "\n")
    (folder / "set/metadata.jsonl").write_text("".join(lines))
    return folder / "set"


def _urls(folder: Path) -> Path:
    urls = [f"{number}.jpg" for number in range(len(CAPTIONS))]
    rows = zip(*_rows().values(), urls, strict=True)
    for content, _, url in rows:
        (folder / url).write_bytes(content)
    told = [json.dumps({"url": u, "caption": c}) for u, c in zip(urls, CAPTIONS, strict=True)]
    (folder / "list.jsonl").write_text("\n".join(told))
    return folder / "list.jsonl"


WAYS: dict[str, Callable[[Path], Path]] = {
    "parquet_images": _parquet,
    "huggingface": _huggingface,
    "webdataset": _tar,
    "folder": _folder,
    "jsonl": _urls,
}


@pytest.mark.parametrize("name", list(WAYS))
def test_of_several_captions_one_is_chosen_and_all_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = WAYS[name](tmp_path / "in")
    options = [f"source.format={name}", f"source.files_root={tmp_path / 'in'}"]
    choices = ("first", "longest", "random") if name in ("jsonl", "huggingface") else ("longest",)
    found = {}
    for choice in choices:
        output = tmp_path / choice
        assert run_job(source, output, *options, f"source.captions={choice}") == 0
        found[choice] = ledger(output)
        assert [row["key"] for row in found[choice]] == [row["key"] for row in found[choices[0]]]
        stored = [json.loads(row["source_caption"] or "[]") for row in found[choice]]
        assert stored == CAPTIONS
        assert verify.main([str(output), "--deep"]) == 0
    assert [row["caption"] for row in found["longest"]] == LONGEST
    if len(choices) > 1:
        assert [row["caption"] for row in found["first"]] == FIRST
        drawn = [row["caption"] for row in found["random"]]
        allowed = zip(drawn, CAPTIONS, strict=True)
        assert all(text in (texts or [None]) and text != " " for text, texts in allowed)
        assert drawn not in (FIRST, LONGEST)


def test_captions_that_are_lists_are_refused_until_one_is_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _parquet(tmp_path)
    given = "source.format=parquet_images"
    assert run_job(source, tmp_path / "run", given) == 2
    assert "set source.captions to first, longest or random" in capsys.readouterr().err
    assert run_job(source, tmp_path / "run", given, "source.captions=all") == 2
    assert "the latent cache holds one text a row" in capsys.readouterr().err
    assert run_job(source, tmp_path / "run", given, "source.captions=first") == 0
    assert run_job(source, tmp_path / "run", given, "source.captions=longest") == 2
    assert "source.captions: 'first' when planned, 'longest' now" in capsys.readouterr().err
    assert run_job(_urls(tmp_path), tmp_path / "urls", f"source.files_root={tmp_path}") == 4
    told = "is a list of texts; set source.captions to first, longest or random"
    assert f"source: the caption of rows {told} (7)" in capsys.readouterr().out
    assert ledger(tmp_path / "urls")[0]["error_message"] == f"caption {told}"
