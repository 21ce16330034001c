"""Parquet lists: a shard reads its own rows, wherever the row groups end."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan import PlanError


@pytest.mark.parametrize("row_group_size", [1, 3, 4, 100])
@pytest.mark.parametrize("rows_per_shard", [1, 4, 7, 100])
def test_shards_hold_the_rows_in_order(
    plan_path: Any, tmp_path: Path, row_group_size: int, rows_per_shard: int
) -> None:
    urls = [f"http://a/{number}" for number in range(11)]
    table = pa.table({"URL": urls, "TEXT": urls, "WIDTH": [float(n) for n in range(11)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=row_group_size)
    planned = plan_path(tmp_path / "a.parquet", rows_per_shard=rows_per_shard)
    assert planned.plan.num_shards == -(-11 // rows_per_shard)
    rows = planned.rows()
    assert rows["url"].to_pylist() == urls
    assert rows["source_width"].to_pylist() == [float(n) for n in range(11)]
    assert rows["row"].to_pylist() == [number % rows_per_shard for number in range(11)]


def test_laion_style_list_keeps_its_columns(plan_path: Any, shared_data: Path) -> None:
    path = shared_data / "metadata" / "img2dataset_test_10000.parquet"
    planned = plan_path(path, rows_per_shard=4000)
    assert [planned.shard(shard).num_rows for shard in range(3)] == [4000, 4000, 2000]
    rows = planned.rows()
    original = pq.read_table(path)
    assert rows["url"].to_pylist() == original["URL"].to_pylist()
    assert rows["caption"].to_pylist() == original["TEXT"].to_pylist()
    texts = list(zip(rows["url"].to_pylist(), rows["caption"].to_pylist(), strict=True))
    assert planned.plan.settled == {
        "duplicate_row": len(texts) - len(set(texts)),
        "key_collision": 0,
    }


def test_null_and_blank_urls_are_missing_and_have_their_own_keys(
    plan_path: Any, tmp_path: Path
) -> None:
    urls = pa.array([None, "", " ", "u"])
    pq.write_table(pa.table({"url": urls, "text": ["a"] * 4}), tmp_path / "a.parquet")
    rows = plan_path(tmp_path / "a.parquet", rows_per_shard=2).rows()
    assert rows["reason"].to_pylist() == ["url_missing"] * 3 + [None]
    assert len(set(rows["key"].to_pylist())) == 4


def test_all_null_url_column_is_rows_without_urls(plan_path: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": pa.nulls(2), "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert plan_path(tmp_path / "a.parquet").rows()["reason"].to_pylist() == ["url_missing"] * 2


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_damaged_file_is_an_error_that_names_it(
    plan_path: Any, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "a.parquet"
    urls = [f"http://a/{number}" for number in range(1000)]
    pq.write_table(pa.table({"url": urls, "text": urls}), path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[1000] ^= 255
    changed = {"cut": content[:-100], "flip": content, "text": b"url,caption\n", "empty": b""}
    path.write_bytes(changed[damage])
    with pytest.raises(PlanError, match=r"a\.parquet: cannot be read as Parquet"):
        plan_path(path)
