"""Tars through the real command: every sample is one row with its own image and caption."""

import json
from pathlib import Path

import pytest

from jobs import verify
from pipelines.rows.image_formats import IMAGE_EXTENSIONS
from pipelines.steps.download import header
from tests.contracts.earlier_plans import plan_as_earlier
from tests.contracts.source_cases import (
    captions,
    ledger,
    picture,
    plan_of,
    run_job,
    stored_shades,
    write_tar,
)

pytestmark = pytest.mark.slow


def shades(output: Path) -> list[int | None]:
    """Of every row, whose shade it holds: pictures are drawn ten shades apart."""
    found = stored_shades(output)
    return [
        round(found[row["key"]] / 10) if row["key"] in found else None for row in ledger(output)
    ]


def test_members_of_a_sample_are_one_row_wherever_they_lie(tmp_path: Path) -> None:
    images = [(f"{n:03d}.jpg", picture(10 * n)) for n in range(8)]
    texts = [(f"{n:03d}.txt", f"caption {n}".encode()) for n in range(8)]
    fields = [(f"{n:03d}.json", json.dumps({"n": n}).encode()) for n in range(8)]
    output = tmp_path / "run"
    assert run_job(write_tar(tmp_path / "a.tar", [*images, *texts, *fields]), output) == 0
    assert captions(output) == [f"caption {n}" for n in range(8)]
    assert [row["source_n"] for row in ledger(output)] == list(range(8))
    assert shades(output) == list(range(8))
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(tmp_path / "a.tar", output) == 0, "repeated"


def test_captions_in_another_order_and_other_samples_between_stay_with_their_image(
    tmp_path: Path,
) -> None:
    members = [("b.txt", b"b"), ("a.jpg", picture(10)), ("c.caption", b"c"), ("b.jpg", picture(20))]
    members += [("d.JPG", picture(40)), ("a.txt", b"a"), ("c.jpg", picture(30)), ("d.text", b"d")]
    members += [("e.jpg", picture(50)), ("e.json", b'{"caption": "e"}')]
    output = tmp_path / "run"
    assert run_job(write_tar(tmp_path / "a.tgz", members, "w:gz"), output) == 0
    found = dict(zip(captions(output), shades(output), strict=True))
    assert found == {"b": 2, "a": 1, "c": 3, "d": 4, "e": 5}


@pytest.mark.parametrize(
    "names",
    [
        ("photo_22.00.jpg", "photo_22.01.jpg"),
        ("v1.5/photo.2024.jpeg", "v1.5/photo.2025.gif"),
        ("0.PNG", "0.webp"),
    ],
)
def test_two_images_in_one_sample_end_planning_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    members = [(names[0], picture(10)), ("x.jpg", picture(30)), (names[1], picture(20))]
    path = write_tar(tmp_path / "a.tar", members)
    assert run_job(path, tmp_path / "run") == 2
    error = capsys.readouterr().err
    for shown in (*names, "source.tar_grouping", "last_dot", "first_dot"):
        assert shown in error


def test_last_dot_makes_each_image_a_sample_with_its_own_caption(tmp_path: Path) -> None:
    members = [(f"photo_22.{n:02d}.jpg", picture(10 * n)) for n in range(4)]
    members += [(f"photo_22.{n:02d}.txt", f"c{n}".encode()) for n in range(4)]
    output = tmp_path / "run"
    path = write_tar(tmp_path / "a.tar", members)
    assert run_job(path, output, "source.tar_grouping=last_dot") == 0
    assert captions(output) == ["c0", "c1", "c2", "c3"]
    assert shades(output) == [0, 1, 2, 3]
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(path, output, "source.tar_grouping=first_dot") == 2, "not as it was planned"


def test_first_dot_when_told_takes_the_plain_image_and_names_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [("0.depth.png", picture(90, "PNG")), ("0.jpg", picture(10)), ("0.txt", b"zero")]
    members += [("1.a.jpg", picture(20)), ("1.b.jpg", picture(80)), ("1.a.txt", b"one a")]
    members += [("1.b.txt", b"one b")]
    output = tmp_path / "run"
    path = write_tar(tmp_path / "a.tar", members)
    assert run_job(path, output, "source.tar_grouping=first_dot") == 0
    assert captions(output) == ["zero", "one a"]
    assert shades(output) == [1, 2]
    said = capsys.readouterr().out
    assert "0.depth.png, 1.b.jpg, 1.b.txt" in said
    assert any("0.depth.png" in note for note in plan_of(output)["notes"])


def test_one_dotted_image_takes_the_dotted_caption_beside_it(tmp_path: Path) -> None:
    members = [("0.image.jpg", picture(10)), ("0.txt", b"plain")]
    members += [("1.00.jpg", picture(20)), ("1.00.txt", b"beside"), ("1.txt", b"the sample's")]
    members += [("2.00.jpg", picture(30)), ("2.01.txt", b"of another picture")]
    members += [("3.jpg", picture(40)), ("3.caption.txt", b"named")]
    output = tmp_path / "run"
    assert run_job(write_tar(tmp_path / "a.tar", members), output) == 0
    assert captions(output) == ["plain", "beside", None, "named"]
    assert shades(output) == [1, 2, 3, 4]


def test_every_format_that_decode_knows_is_an_image_of_a_tar(tmp_path: Path) -> None:
    assert set(IMAGE_EXTENSIONS) == set(header._READERS)
    names = [(name, ext) for name, known in IMAGE_EXTENSIONS.items() for ext in known]
    members = []
    for number, (name, extension) in enumerate(names):
        members.append((f"{number:02d}.{extension}", picture(10 * number, name.upper())))
        members.append((f"{number:02d}.txt", extension.encode()))
    output = tmp_path / "run"
    assert run_job(write_tar(tmp_path / "a.tar", members), output) == 0
    assert [row["reason"] for row in ledger(output)] == [None] * len(names)
    assert shades(output) == list(range(len(names)))


def test_folders_in_names_tell_samples_apart_and_what_is_no_sample_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [("a/0.jpg", picture(10)), ("b/0.jpg", picture(20)), ("b/0.txt", b"b")]
    members += [("a/0.txt", b"a"), ("__MACOSX/a/._0.jpg", b"\0\5\26\7"), ("README", b"?")]
    members += [("a/0.cls", b"7"), ("b/0.npy", b"?"), (".DS_Store", b"?")]
    output = tmp_path / "run"
    assert run_job(write_tar(tmp_path / "a.tar", members), output) == 0
    assert captions(output) == ["a", "b"]
    assert shades(output) == [1, 2]
    said = capsys.readouterr().out
    for kind in ("hidden files (2)", "no extension (1)", ".cls (1)", ".npy (1)"):
        assert kind in said


@pytest.mark.parametrize("member", ["0.jpg", "0.txt"])
def test_a_member_that_is_there_twice_ends_planning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str
) -> None:
    members = [("0.jpg", picture(10)), ("0.txt", b"first"), ("1.jpg", picture(30))]
    members.append((member, picture(20) if member == "0.jpg" else b"second"))
    assert run_job(write_tar(tmp_path / "a.tar", members), tmp_path / "run") == 2
    assert f"{member} is there 2 times" in capsys.readouterr().err


def test_tars_joined_by_cat_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_tar(tmp_path / "1.tar", [("0.jpg", picture(10))])
    second = write_tar(tmp_path / "2.tar", [("1.jpg", picture(20))])
    both = tmp_path / "both.tar"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    assert run_job(both, tmp_path / "run") == 2
    assert "another tar follows its end mark" in capsys.readouterr().err


def test_a_tar_grows_by_samples_and_not_by_members_of_planned_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [(f"{n}.jpg", picture(10 * n)) for n in range(4)]
    members += [(f"{n}.txt", f"c{n}".encode()) for n in range(4)]
    output, path = tmp_path / "run", tmp_path / "a.tar"
    assert run_job(write_tar(path, members), output) == 0
    more = [("4.txt", b"c4"), ("5.jpg", picture(50)), ("4.jpg", picture(40)), ("5.txt", b"c5")]
    write_tar(path, [*members, *more])
    assert run_job(path, output, options=("--grow",)) == 0
    assert captions(output) == [f"c{n}" for n in range(6)]
    assert shades(output) == list(range(6))
    assert verify.main([str(output), "--deep"]) == 0
    write_tar(path, [*members, *more, ("6.jpg", picture(60)), ("2.json", b'{"late": 1}')])
    assert run_job(path, output, options=("--grow",)) == 2
    assert "1 samples that are planned have further members now (2)" in capsys.readouterr().err


def test_a_tar_that_an_earlier_version_planned_keeps_its_rows(tmp_path: Path) -> None:
    members = [("0.jpg", picture(10)), ("1.jpg", picture(20)), ("0.txt", b"late")]
    members += [("2.gif", picture(30, "GIF")), ("3.jpg", picture(40)), ("3.txt", b"c3")]
    output, path = tmp_path / "run", tmp_path / "a.tar"
    plan_as_earlier(write_tar(path, members), output, rows_per_shard=3)
    assert run_job(path, output) == 0
    assert captions(output) == [None, None, "late", None, "c3"]
    missing = "member_missing"
    assert [row["reason"] for row in ledger(output)] == [None, None, missing, missing, None]
    assert sorted(stored_shades(output).values()) == [10, 20, 40]
    assert verify.main([str(output), "--deep"]) == 0
    write_tar(path, [*members, ("4.jpg", picture(50)), ("4.txt", b"c4")])
    assert run_job(path, output, options=("--grow",)) == 0
    assert captions(output) == [None, None, "late", None, "c3", "c4"]
    assert sorted(stored_shades(output).values()) == [10, 20, 40, 50]
