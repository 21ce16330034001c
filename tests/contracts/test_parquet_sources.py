"""Parquet through the real command: bytes are no text, folders are columns, one row costs none."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import verify
from tests.contracts.cases import ServedList
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


def listed(served_list: ServedList, count: int, **columns: Any) -> pa.Table:
    urls = [f"{served_list.server.url}/{number:03d}.png" for number in range(count)]
    return pa.table({"url": urls, "caption": [f"c{n}" for n in range(count)], **columns})


def hf_images(count: int) -> pa.Array:
    """A column as Hugging Face datasets write images."""
    rows = [{"bytes": picture(10 * n), "path": f"{n}.jpg"} for n in range(count)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def test_image_bytes_beside_urls_are_left_out_and_said_once_by_name(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [picture(10 * n) for n in range(5)]
    table = listed(
        served_list,
        5,
        image=hf_images(5),
        jpg=pa.array([None, *pictures[1:]], pa.large_binary()),
        views=[[{"png": one}] for one in pictures],
        md5=[bytes([250, number] * 8) for number in range(5)],
        licence=[b"CC0"] * 5,
    )
    output = tmp_path / "run"
    (tmp_path / "in").mkdir()
    for name in ("0.parquet", "1.parquet"):
        pq.write_table(table, tmp_path / "in" / name, row_group_size=2)
    assert run_job(tmp_path / "in", output) == 0
    said = capsys.readouterr().out
    for name in ("image", "jpg", "views"):
        assert said.count(f"the column '{name}' holds bytes that are no text") == 1
    rows = ledger(output)
    assert {name for name in rows[0] if name.startswith("source_")} == {
        "source_md5",
        "source_licence",
    }
    assert rows[1]["source_md5"] == "fa01" * 8
    assert {row["source_licence"] for row in rows} == {"CC0"}
    assert "ffd8" not in json.dumps(rows, default=str)
    assert verify.main([str(output), "--deep"]) == 0


def test_parquet_with_image_bytes_and_no_url_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": hf_images(3), "text": ["a", "b", "c"]}), path)
    assert run_job(path, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "image hold(s) bytes: where they are the pictures, set source.format" in error
    assert "url_column" in error


def test_bytes_that_turn_up_later_are_null_and_counted(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [b"text", b"\xff\x00", *[None] * 65, picture(10), "café".encode()]
    path, output = tmp_path / "a.parquet", tmp_path / "run"
    pq.write_table(listed(served_list, 69, note=values), path, row_group_size=10)
    assert run_job(path, output, "plan.rows_per_shard=100") == 0
    line = "values of the column 'note' cannot be carried and are null (1)"
    assert line in capsys.readouterr().out
    found = [row["source_note"] for row in ledger(output)]
    assert found == ["text", "ff00", *[None] * 66, "café"]


def test_one_odd_value_of_a_passing_column_costs_neither_its_shard_nor_its_row(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    year_10000 = 253_402_300_800_000_000
    never = 2**62
    bad = pa.array([b"ok", b"caf\xe9", b"ok", None, b"ok"]).view(pa.string())
    when = pa.array([0, year_10000, 0, None, 0]).cast(pa.timestamp("us"))
    far = pa.array([0, never, 0, None, 0]).cast(pa.timestamp("ms"))
    zoned = pa.array([0, 1, 2, None, 3]).cast(pa.timestamp("us", tz="Mars/Olympus"))
    day = pa.array([0, 2**31 - 1, 0, None, 0], pa.int32()).cast(pa.date32())
    fields = {"bad": bad, "when": when, "far": far, "zoned": zoned, "day": day}
    struct = pa.StructArray.from_arrays(list(fields.values()), list(fields))
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4, 5], pa.int32()), struct)
    table = listed(served_list, 5, **fields, struct=struct, lists=lists)
    path, output = tmp_path / "a.parquet", tmp_path / "run"
    pq.write_table(table, path, row_group_size=2)
    assert run_job(path, output, "plan.rows_per_shard=5") == 0
    rows = ledger(output)
    assert [row["reason"] for row in rows] == [None] * 5
    assert [row["source_bad"] for row in rows] == ["ok", None, "ok", None, "ok"]
    assert rows[1]["source_when"] == "10000-01-01 00:00:00.000000"
    assert rows[1]["source_zoned"] == "1970-01-01 00:00:00.000001Z"
    assert rows[1]["source_far"] is rows[1]["source_day"] is None
    for value in (rows[1]["source_struct"], json.loads(rows[1]["source_lists"])[0]):
        found = json.loads(value) if isinstance(value, str) else value
        assert (found["bad"], found["far"], found["day"]) == (None, None, None)
        assert found["when"] == "10000-01-01 00:00:00.000000"
        assert found["zoned"] == "1970-01-01 00:00:00.000001Z"
    said = capsys.readouterr().out
    counts = {"bad": 1, "far": 1, "day": 1, "struct": 3, "lists": 3}
    for name, count in counts.items():
        line = f"values of the column '{name}' cannot be carried and are null ({count})"
        assert said.count(line) == 1, name
    assert "'when'" not in said
    assert verify.main([str(output), "--deep"]) == 0


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_hive_folders_keep_their_columns(
    served_list: ServedList, tmp_path: Path, kind: str
) -> None:
    table = listed(served_list, 6)
    folders = ("lang=de/year=2023", "lang=en%20GB/year=2024", "lang=__HIVE_DEFAULT_PARTITION__")
    for number, folder in enumerate(folders):
        path = tmp_path / "in" / folder / f"part-0.{kind}"
        path.parent.mkdir(parents=True)
        part = table.slice(2 * number, 2)
        if kind == "parquet":
            pq.write_table(part, path)
        else:
            rows = part.to_pylist()
            path.write_text("url,caption\n" + "".join(f"{r['url']},{r['caption']}\n" for r in rows))
    output = tmp_path / "run"
    assert run_job(tmp_path / "in", output) == 0
    found = {row["caption"]: (row["source_lang"], row.get("source_year")) for row in ledger(output)}
    assert found["c0"] == found["c1"] == ("de", 2023)
    assert found["c2"] == found["c3"] == ("en GB", 2024)
    assert found["c4"] == found["c5"] == (None, None)
    kept = [f"source.path={tmp_path}/in/*/*/*.{kind}", "rules.terms=null"]
    assert run_job(kept[0].removeprefix("source.path="), tmp_path / "glob") == 0
    assert [row["source_lang"] for row in ledger(tmp_path / "glob")] == ["de"] * 2 + ["en GB"] * 2
    assert verify.main([str(output), "--deep"]) == 0


def img2dataset_list(count: int, **columns: Any) -> pa.Table:
    """What img2dataset writes of these rows; the second failed."""
    status = ["failed_to_download" if n == 1 else "success" for n in range(count)]
    return pa.table(
        {
            "url": [f"http://a/{n}" for n in range(count)],
            "caption": [f"c{n}" for n in range(count)],
            "key": [f"00000{n:04d}" for n in range(count)],
            "status": status,
            "error_message": [None if one == "success" else "HTTP 404" for one in status],
            "width": pa.array([96] * count, pa.int32()),
            **columns,
        }
    )


@pytest.mark.parametrize("layout", ["webdataset", "files", "files without captions", "parquet"])
def test_each_of_img2datasets_layouts_is_read(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pictures = [None if n == 1 else picture(10 * n) for n in range(5)]
    columns = {"jpg": pa.array(pictures, pa.binary())} if layout == "parquet" else {}
    table = img2dataset_list(5, **columns)
    pq.write_table(table, folder / "00000.parquet", row_group_size=2)
    (folder / "00000_stats.json").write_text("{}")
    kept = {key: one for key, one in zip(table["key"].to_pylist(), pictures, strict=True) if one}
    if layout == "webdataset":
        write_tar(folder / "00000.tar", [(f"{key}.jpg", one) for key, one in kept.items()])
    elif layout.startswith("files"):
        (folder / "00000").mkdir()
        for key, one in kept.items():
            (folder / "00000" / f"{key}.jpg").write_bytes(one)
            (folder / "00000" / f"{key}.json").write_text("{}")
            if layout == "files":
                (folder / "00000" / f"{key}.txt").write_text("c")
    told = ["source.format=img2dataset"] if layout == "parquet" else []
    output = tmp_path / "run"
    assert run_job(folder, output, *told) == 0
    rows = ledger(output)
    assert captions(output) == [f"c{n}" for n in range(5)]
    assert [row["reason"] for row in rows] == [None, "source_failed", None, None, None]
    shades = stored_shades(output)
    found = [shades.get(row["key"]) for row in rows]
    assert [one if one is None else round(one / 10) for one in found] == [0, None, 2, 3, 4]
    assert "source_jpg" not in rows[0]
    assert rows[0]["source_width"] == 96
    assert verify.main([str(output), "--deep"]) == 0
    assert run_job(folder, output, *told) == 0, "repeated"


@pytest.mark.parametrize("layout", ["parquet", "tfrecord"])
def test_img2datasets_other_layouts_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    columns = {"webp": [picture(1)] * 3} if layout == "parquet" else {}
    pq.write_table(img2dataset_list(3, **columns), folder / "00000.parquet")
    if layout == "tfrecord":
        (folder / "00000.tfrecord").write_bytes(b"?")
    assert run_job(folder, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert f"its {layout} layout" in error
    assert "source.format to" in error


def test_what_was_lost_is_in_the_plans_record(served_list: ServedList, tmp_path: Path) -> None:
    table = listed(served_list, 2, image=hf_images(2), at=[datetime.date(2020, 1, 1)] * 2)
    pq.write_table(table, tmp_path / "a.parquet")
    assert run_job(tmp_path / "a.parquet", tmp_path / "run") == 0
    (note,) = plan_of(tmp_path / "run")["notes"]
    assert "'image'" in note
