"""Tables that hold their pictures, through the real command: nothing is fetched, nothing copied."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import export, verify
from tests.contracts.source_cases import ledger, picture, run_job, stored_shades

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # datasets' own

COUNT = 7


def pictures() -> list[bytes]:
    return [picture(10 * number) for number in range(1, COUNT + 1)]


def check(output: Path, contents: list[bytes]) -> None:
    """Each caption stands at its own picture, whose bytes are in no table of the run."""
    rows, shades = ledger(output), stored_shades(output)
    assert [row["caption"] for row in rows] == [f"c{number}" for number in range(1, COUNT + 1)]
    assert [round(shades[row["key"]] / 10) for row in rows] == list(range(1, COUNT + 1))
    assert [row["source_stars"] for row in rows] == list(range(COUNT))
    tables = [p.read_bytes() for p in output.rglob("*.parquet")]
    assert not any(content[:64] in table for content in contents for table in tables)
    assert verify.main([str(output), "--deep"]) == 0


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_parquet_with_pictures_in_a_column(kind: str, tmp_path: Path) -> None:
    contents: list[Any] = list(pictures())
    column = pa.array(contents, pa.large_binary())
    if kind == "struct":
        fields = [("bytes", pa.binary()), ("path", pa.string())]
        rows = [{"bytes": one, "path": f"{n}.jpg"} for n, one in enumerate(contents)]
        column = pa.array(rows, pa.struct(fields))
    table = pa.table(
        {
            "image": column,
            "text": [f"c{number}" for number in range(1, COUNT + 1)],
            "stars": list(range(COUNT)),
        }
    )
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=2)
    output = tmp_path / "run"
    assert run_job(tmp_path / "set.parquet", output, "source.format=parquet_images") == 0
    check(output, contents)


@pytest.mark.parametrize("splits", [False, True])
def test_a_hugging_face_data_set_on_disk(splits: bool, tmp_path: Path) -> None:
    import datasets

    contents = pictures()
    features = {"image": datasets.Image(), "text": datasets.Value("string")}
    made = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": one, "path": None} for one in contents],
            "text": [f"c{number}" for number in range(1, COUNT + 1)],
            "stars": list(range(COUNT)),
        },
        features=datasets.Features(features | {"stars": datasets.Value("int32")}),
    )
    if splits:
        datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "set"))
    else:
        made.save_to_disk(str(tmp_path / "set"), num_shards=2)
    output = tmp_path / "run"
    assert run_job(tmp_path / "set", output) == 0
    check(output, contents)
    assert run_job(tmp_path / "set", output) == 0, "again, with nothing to do"


def test_rows_without_a_picture_and_urls_that_are_not_fetched(tmp_path: Path) -> None:
    contents: list[bytes | None] = [*pictures()[:2], None, b"", b"no picture"]
    urls = ["http://127.0.0.1:9/a.jpg", None, *[f"http://127.0.0.1:9/{n}.jpg" for n in range(3)]]
    table = pa.table({"url": urls, "jpg": pa.array(contents, pa.binary())})
    pq.write_table(table, tmp_path / "set.parquet")
    output = tmp_path / "run"
    assert run_job(tmp_path / "set.parquet", output, "source.format=parquet_images") == 0
    assert [row["reason"] for row in ledger(output)] == [
        *(None, None, "member_missing", "member_missing", "format_unsupported"),
    ]


@pytest.mark.parametrize("kind", ["parquet", "huggingface"])
def test_pictures_alone_are_rows_too(kind: str, tmp_path: Path) -> None:
    if kind == "parquet":
        table = pa.table({"image": pa.array(pictures(), pa.binary())})
        pq.write_table(table, tmp_path / "set.parquet")
    else:
        import datasets

        made = datasets.Dataset.from_dict({"image": pictures()})
        made.save_to_disk(str(tmp_path / "set"))
    name, given = ("set.parquet", "parquet_images") if kind == "parquet" else ("set", "auto")
    assert run_job(tmp_path / name, tmp_path / "run", f"source.format={given}") == 0
    shades = stored_shades(tmp_path / "run")
    found = [round(shades[row["key"]] / 10) for row in ledger(tmp_path / "run")]
    assert found == list(range(1, COUNT + 1))


def test_which_column_holds_the_pictures_is_asked_where_it_cannot_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pa.array(pictures(), pa.binary())
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"a": images, "b": images, "n": list(range(COUNT))}), path)
    assert run_job(path, tmp_path / "auto") == 2
    assert "set source.format to parquet_images" in capsys.readouterr().err
    given = "source.format=parquet_images"
    assert run_job(path, tmp_path / "run", given) == 2
    assert "2 columns hold pictures" in capsys.readouterr().err
    assert run_job(path, tmp_path / "run", given, "source.image_column=c") == 2
    assert "it is 'c'; the columns are: a, b, n" in capsys.readouterr().err
    assert run_job(path, tmp_path / "run", given, "source.image_column=b") == 0
    assert run_job(path, tmp_path / "run", given, "source.image_column=a") == 2
    assert "source.image_column: 'b' when planned, 'a' now" in capsys.readouterr().err


def test_what_was_exported_for_hugging_face_comes_in_again(
    unharmed_run: Path, tmp_path: Path
) -> None:
    to = tmp_path / "set"
    assert export.main([str(unharmed_run), "--to", str(to), "--format", "huggingface"]) == 0
    output = tmp_path / "run"
    given = "source.format=parquet_images"
    assert run_job(f"{to}/data/*.parquet", output, given, "source.url_column=") == 0
    record = json.loads((to / "export.json").read_text())
    assert len(ledger(output)) == record["rows"]
    assert all(row["reason"] is None for row in ledger(output))
