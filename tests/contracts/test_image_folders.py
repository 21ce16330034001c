"""Folders of pictures through the real command: a picture is a row, with what is told of it."""

import json
from pathlib import Path

import pytest

from jobs import verify
from tests.contracts.source_cases import captions, ledger, picture, run_job, stored_shades

pytestmark = pytest.mark.slow


def folder_of(root: Path, *names: str) -> Path:
    """Pictures ten shades apart, in the order of the names."""
    for number, name in enumerate(names, start=1):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "PNG" if name.endswith(".png") else "JPEG"
        path.write_bytes(picture(10 * number, kind))
    return root


def shades(output: Path) -> dict[str, int]:
    """Of every stored row, by its file's name: the number of the picture that it holds."""
    found = stored_shades(output)
    return {
        row["source_file_name"]: round(found[row["key"]] / 10)
        for row in ledger(output)
        if row["key"] in found
    }


def test_nested_pictures_are_rows_with_the_texts_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("a.jpg", "cats/1.JPG", "cats/2.png", "cats/old/1.jpg", "lang=en/a[1].jpeg")
    root = folder_of(tmp_path / "pictures", *names)
    (root / "a.txt").write_text("an apple\n")
    (root / "cats/2.caption").write_text("two cats")
    (root / "cats/1.txt").write_bytes(b"caf\xe9")
    (root / "cats/notes.pdf").write_text("of no row")
    (root / "cats/empty.jpg").write_bytes(b"")
    (root / "cats/.hidden.jpg").write_bytes(picture(90))
    output = tmp_path / "run"
    assert run_job(root, output) == 0
    said = capsys.readouterr().out
    assert "cats: files that are no part of a row (1)" in said.replace("cats/:", "cats:")
    assert shades(output) == {name: number for number, name in enumerate(names, start=1)}
    rows = {row["source_file_name"]: row for row in ledger(output)}
    assert rows["a.jpg"]["caption"] == "an apple"
    assert rows["cats/2.png"]["caption"] == "two cats"
    assert rows["cats/1.JPG"]["caption"] == "caf\ufffd"
    assert "captions with bytes that are no UTF-8, replaced by U+FFFD (1)" in said
    assert rows["cats/old/1.jpg"]["caption"] is None
    assert rows["cats/empty.jpg"]["reason"] == "member_missing"
    assert rows["lang=en/a[1].jpeg"]["source_lang"] == "en"
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(root, output) == 0, "again, with nothing to do"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "captions.jsonl"])
def test_a_list_as_hugging_faces_image_folder_has_it_tells_captions_and_fields(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "pictures", "1.jpg", "2.jpg", "sub/1.jpg", "sub/2.jpg")
    lines = [("1.jpg", "one, first", 7), ("sub/1.jpg", "below", 8), ("gone.jpg", "nothing", 9)]
    if name.endswith(".csv"):
        text = (
            'file_name,text,stars\n"1.jpg","one, first",7\nsub/1.jpg,below,8\ngone.jpg,nothing,9\n'
        )
    else:
        rows = [{"file_name": f, "text": t, "stars": s} for f, t, s in lines]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (root / name).write_text(text)
    (root / "2.txt").write_text("from its own text")
    output = tmp_path / "run"
    assert run_job(root, output) == 0
    said = capsys.readouterr().out
    assert f"{name} names pictures that are not there (1)" in said
    assert f"{name} does not name pictures that are there (1)" in said
    rows = {row["source_file_name"]: row for row in ledger(output)}
    assert {n: (row["caption"], row["source_stars"]) for n, row in rows.items()} == {
        "1.jpg": ("one, first", 7),
        "2.jpg": ("from its own text", None),
        "sub/1.jpg": ("below", 8),
        "sub/2.jpg": (None, None),
    }
    assert shades(output) == {"1.jpg": 1, "2.jpg": 2, "sub/1.jpg": 3, "sub/2.jpg": 4}


def test_a_folder_grows_by_new_folders_and_later_names_and_is_held_to_what_was_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "pictures", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "sub/1.jpg")
    output = tmp_path / "run"
    assert run_job(root, output) == 0
    before = {row["source_file_name"]: row["key"] for row in ledger(output)}
    (root / "5.jpg").write_bytes(picture(60))
    folder_of(root, "more/7.jpg")
    assert run_job(root, output) == 2
    assert "give --grow" in capsys.readouterr().err
    assert run_job(root, output, options=("--grow",)) == 0
    after = {row["source_file_name"]: row["key"] for row in ledger(output)}
    assert after.items() > before.items()
    assert shades(output) == {
        **{"1.jpg": 1, "2.jpg": 2, "3.jpg": 3, "4.jpg": 4, "sub/1.jpg": 5},
        **{"5.jpg": 6, "more/7.jpg": 1},
    }
    (root / "0.jpg").write_bytes(picture(70))
    assert run_job(root, output, options=("--grow",)) == 2
    assert "its pictures are not those that were planned" in capsys.readouterr().err
    assert verify.main([str(output), "--deep"]) == 0


@pytest.mark.parametrize("given", ["1.jpg", "*.jpg"])
def test_a_picture_or_a_glob_of_some_is_refused_with_what_to_give(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "pictures", "1.jpg", "2.jpg")
    assert run_job(f"{root}/{given}", tmp_path / "run") == 2
    assert "give the folder that holds them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n', "a line without 'file_name'"),
        ('{"file_name": "1.jpg", "text": "a", "alt": "b"}\n', "set source.caption_column"),
        ("[1]\n", "line 1 is not a JSON object"),
        ("{\n", "line 1 is no JSON"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_name(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "pictures", "1.jpg")
    (root / "metadata.jsonl").write_text(content)
    assert run_job(root, tmp_path / "run") == 2
    assert said in capsys.readouterr().err


def test_every_caption_reaches_its_own_picture_in_many_shards(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(1, 8)]
    root = folder_of(tmp_path / "pictures", *names)
    for name in names:
        (root / name).with_suffix(".txt").write_text(f"caption of {name}")
    output = tmp_path / "run"
    assert run_job(root, output) == 0
    assert captions(output) == [f"caption of {name}" for name in names]
    assert shades(output) == {name: number for number, name in enumerate(names, start=1)}
