"""Columns: recognised or refused with what was found; every type is storable, no name collides."""

import datetime
import decimal
import math
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan import PlanError
from pipelines.sources.columns import (
    infer_text_type,
    name_source_columns,
    recognise_columns,
    stored_array,
    unique_names,
)
from pipelines.sources.config import SourceError


@pytest.mark.parametrize(
    ("names", "url", "caption"),
    [
        (["URL", "TEXT", "WIDTH", "hash"], "URL", "TEXT"),
        (["key", "url", "caption", "width"], "url", "caption"),
        (["Image_URL", "Alt_Text"], "Image_URL", "Alt_Text"),
    ],
)
def test_common_names_are_recognised(names: list[str], url: str, caption: str) -> None:
    found = recognise_columns(names, url_column=None, caption_column=None, where="f")
    assert (found.url, found.caption) == (url, caption)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a", "text"], {}, r"f: no url_column: none is known among the columns: a, text; set "),
        (["url", "uri", "text"], {}, r"several could be meant \(url, uri\)"),
        (["url", "b"], {}, r'no caption_column: none is known .* url, b; .*\(or "" for a list'),
        (["url", "text"], {"url_column": "URL"}, r"url_column is 'URL', but the columns are: url"),
    ],
)
def test_columns_in_doubt_are_refused_with_those_found(
    names: list[str], options: dict[str, str], message: str
) -> None:
    asked = {"url_column": None, "caption_column": None, **options}
    with pytest.raises(SourceError, match=message):
        recognise_columns(names, where="f", **asked)


def test_list_without_captions_is_read_when_said_so(plan_path: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["u1"], "b": [1]}), tmp_path / "a.parquet")
    with pytest.raises(PlanError, match="caption_column"):
        plan_path(tmp_path / "a.parquet")
    rows = plan_path(tmp_path / "a.parquet", caption_column="").rows()
    assert rows["caption"].to_pylist() == [None]


def test_names_that_fall_together_are_told_apart() -> None:
    columns = name_source_columns({"WIDTH": "double", "width": "int64", "Width_2": "string"})
    assert [column.name for column in columns] == [
        "source_width",
        "source_width_2",
        "source_width_2_2",
    ]
    assert unique_names(["a", "a", "a_2", "b"]) == ["a", "a_2", "a_2_2", "b"]


def test_repeated_header_names_keep_their_own_values(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption,w,w,W\nu,c,1,2,3\n")
    row = plan_path(tmp_path / "a.csv").rows().to_pylist()[0]
    assert (row["source_w"], row["source_w_2"], row["source_w_3"]) == (1, 2, 3)
    table = pa.table([["u"], ["c"], [1], [2]], names=["url", "caption", "w", "w"])
    pq.write_table(table, tmp_path / "b.parquet")
    row = plan_path(tmp_path / "b.parquet").rows().to_pylist()[0]
    assert (row["source_w"], row["source_w_2"]) == (1, 2)


ODD_COLUMNS = {
    "when": (pa.array([datetime.datetime(2020, 1, 2), None]), ["2020-01-02 00:00:00.000000", None]),
    "zoned": (
        pa.array(
            [datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), None], pa.timestamp("ns", "UTC")
        ),
        ["2020-01-02 00:00:00.000000000Z", None],
    ),
    "day": (pa.array([datetime.date(2020, 1, 2), None]), ["2020-01-02", None]),
    "span": (pa.array([datetime.timedelta(seconds=1), None]), ["1000000", None]),
    "price": (pa.array([decimal.Decimal("1.10"), None]), ["1.10", None]),
    "bytes": (pa.array([b"\xff\x00", None]), ["ff00", None]),
    "list": (pa.array([[1, None], None]), ["[1, null]", None]),
    "struct": (pa.array([{"a": b"\x01", "b": "é"}, None]), ['{"a": "01", "b": "é"}', None]),
    "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())), ['[["k", 1]]', None]),
    "dict": (pa.array(["x", None]).dictionary_encode(), ["x", None]),
    "small": (pa.array([1, None], pa.int8()), [1, None]),
    "huge": (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
    "half": (pa.array([0.5, None], pa.float16()), [0.5, None]),
    "flag": (pa.array([True, None]), [True, None]),
    "none": (pa.nulls(2), [None, None]),
    "large": (pa.array(["x", None], pa.large_string()), ["x", None]),
    "uuid": (
        pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([uuid.UUID(int=1).bytes, None], pa.binary(16))
        ),
        ["0" * 31 + "1", None],
    ),
}


def test_every_type_of_column_becomes_a_storable_one(plan_path: Any, tmp_path: Path) -> None:
    table = pa.table({"url": ["u1", "u2"], "text": ["a", "b"]})
    for name, (array, _) in ODD_COLUMNS.items():
        table = table.append_column(name, array)
    pq.write_table(table, tmp_path / "a.parquet")
    rows = plan_path(tmp_path / "a.parquet").rows()
    found = {name: rows[f"source_{name}"].to_pylist() for name in ODD_COLUMNS}
    assert found == {name: expected for name, (_, expected) in ODD_COLUMNS.items()}
    stored = {str(rows.schema.field(f"source_{name}").type) for name in ODD_COLUMNS}
    assert stored <= {"bool", "int64", "uint64", "double", "string"}


def test_nan_stays_nan_and_bad_utf8_is_replaced(plan_path: Any, tmp_path: Path) -> None:
    broken = pa.array([b"caf\xe9"]).cast(pa.large_binary()).view(pa.large_string())
    table = pa.table({"url": ["u"], "text": broken, "similarity": [math.nan]})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = plan_path(tmp_path / "a.parquet").rows().to_pylist()
    assert math.isnan(row["source_similarity"])
    assert row["caption"] == "caf�"


def test_column_types_are_the_same_in_every_shard_and_file(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "l").mkdir()
    first = pa.table({"url": ["a", "b"], "text": ["", ""], "W": pa.array([1, 2], pa.int32())})
    pq.write_table(first, tmp_path / "l" / "0.parquet")
    second = pa.table({"url": ["c"], "text": [""], "W": [2.5], "only": ["x"]})
    pq.write_table(second, tmp_path / "l" / "1.parquet")
    planned = plan_path(tmp_path / "l", rows_per_shard=1)
    rows = planned.rows()  # concatenates only where the schemas are equal
    assert rows["source_w"].to_pylist() == [1.0, 2.0, 2.5]
    assert rows["source_only"].to_pylist() == [None, None, "x"]
    (tmp_path / "c.csv").write_text("url,caption,n,m,z\na,,1,07,\nb,,2.5,1,\nc,,,x,\n")
    rows = plan_path(tmp_path / "c.csv", rows_per_shard=1, content_hash="z").rows()
    assert rows["source_n"].to_pylist() == [1.0, 2.5, None]
    assert rows["source_m"].to_pylist() == ["07", "1", "x"]
    assert rows["source_z"].to_pylist() == ["", "", ""]
    (tmp_path / "d.jsonl").write_text(
        '{"url": "a", "caption": "", "n": 1}\n{"url": "b", "caption": "", "n": "x"}\n'
        '{"url": "c", "caption": "", "n": {"k": [1]}}\n{"url": "d", "caption": "", "n": true}\n'
    )
    rows = plan_path(tmp_path / "d.jsonl", rows_per_shard=1).rows()
    assert rows["source_n"].to_pylist() == ["1", "x", '{"k": [1]}', "true"]


@pytest.mark.parametrize("array", [pa.array([1]), pa.array([["a"]])])
def test_url_column_that_is_no_text_is_refused(plan_path: Any, tmp_path: Path, array: Any) -> None:
    pq.write_table(pa.table({"url": array, "text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(PlanError, match=r"url_column 'url' is .*, not text"):
        plan_path(tmp_path / "a.parquet")


def test_text_stored_as_bytes_is_text(plan_path: Any, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"url": [b"http://a/\xc3\xa9"], "text": [b"b"]}), tmp_path / "a.parquet"
    )
    (row,) = plan_path(tmp_path / "a.parquet").rows().to_pylist()
    assert (row["url"], row["caption"]) == ("http://a/é", "b")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0", ""], "int64"),
        (["1", "2.5", "", "1e5", ".5", "+3.", "nan", "-inf"], "double"),
        (["007", "1"], "string"),
        (["12345678901234567890123456789012"], "string"),
        (["1", "x"], "string"),
        (["", ""], ""),
    ],
)
def test_csv_values_are_numbers_only_where_nothing_is_lost(values: list[str], kind: str) -> None:
    column = pa.array(values)
    assert infer_text_type(column) == kind
    if kind in ("int64", "double"):
        assert str(stored_array(column, kind).type) == kind


def test_secrets_in_other_columns_are_redacted(plan_path: Any, tmp_path: Path) -> None:
    table = pa.table({"url": ["http://u:p@a/"], "text": ["a"], "origin": ["http://u:p@a/?sig=1"]})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = plan_path(tmp_path / "a.parquet").rows().to_pylist()
    assert row["url"] == "http://u:p@a/"  # for the fetcher, which redacts what it stores
    assert row["source_origin"] == "http://REDACTED@a/?sig=REDACTED"
