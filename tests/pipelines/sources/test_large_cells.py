"""Lists that are small and hold much: a large cell costs its row, and no list costs the memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan import PlanError
from pipelines.sources import Source, SourceConfig
from pipelines.sources.config import SourceError
from pipelines.sources.parquet_reading import BoundedReading
from tests.contracts.source_cases import picture, write_tar

LARGE = "word " * 300_000  # 1.5 MB
URLS = [f"http://a.example/{number}.jpg" for number in range(4)]
CAPTIONS = ["a", LARGE, "b", None]
OTHERS = [LARGE, "c", "d", "e"]


def _parquet(folder: Path, **options: Any) -> Path:
    table = pa.table(
        {"url": URLS, "text": CAPTIONS, "other": OTHERS, "tags": [[o] for o in OTHERS]}
    )
    pq.write_table(table, folder / "a.parquet", **options)
    return folder / "a.parquet"


def _csv(folder: Path) -> Path:
    rows = zip(URLS, CAPTIONS, OTHERS, strict=True)
    lines = ["url,text,other", *(",".join(cell or "" for cell in row) for row in rows)]
    (folder / "a.csv").write_text("\n".join(lines))
    return folder / "a.csv"


def _jsonl(folder: Path) -> Path:
    rows = zip(URLS, CAPTIONS, OTHERS, strict=True)
    lines = (json.dumps({"url": u, "text": c, "other": [o]}) for u, c, o in rows)
    (folder / "a.jsonl").write_text("\n".join(lines))
    return folder / "a.jsonl"


def _tar(folder: Path) -> Path:
    members = []
    for number, (caption, other) in enumerate(zip(CAPTIONS, OTHERS, strict=True)):
        members += [
            (f"{number}.jpg", picture(number)),
            (f"{number}.txt", (caption or "").encode()),
            (f"{number}.json", json.dumps({"url": URLS[number], "other": other}).encode()),
        ]
    return write_tar(folder / "a.tar", members)


def _folder(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    for number, caption in enumerate(CAPTIONS):
        (folder / f"pictures/{number}.jpg").write_bytes(picture(number))
        if caption:
            (folder / f"pictures/{number}.txt").write_text(caption)
    told = ({"file_name": f"{number}.jpg", "other": o} for number, o in enumerate(OTHERS))
    (folder / "pictures/metadata.jsonl").write_text("\n".join(map(json.dumps, told)))
    return folder / "pictures"


def _listed_folder(folder: Path) -> Path:
    (folder / "pictures").mkdir()
    for number in range(4):
        (folder / f"pictures/{number}.jpg").write_bytes(picture(number))
    rows = zip(range(4), CAPTIONS, OTHERS, strict=True)
    lines = ["file_name,text,other", *(f"{n}.jpg,{c or ''},{o}" for n, c, o in rows)]
    (folder / "pictures/metadata.csv").write_text("\n".join(lines))
    return folder / "pictures"


def _hugging_face(folder: Path) -> Path:
    table = pa.table({"image": [picture(n) for n in range(4)], "text": CAPTIONS, "other": OTHERS})
    (folder / "set").mkdir()
    for name in ("dataset_info.json", "state.json"):
        (folder / "set" / name).write_text("{}")
    with pa.ipc.new_stream(folder / "set/data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return folder / "set"


LISTS: dict[str, Callable[[Path], Path]] = {
    "Parquet": _parquet,
    "plain Parquet": lambda folder: _parquet(folder, use_dictionary=False, row_group_size=3),
    "CSV": _csv,
    "JSON lines": _jsonl,
    "tar": _tar,
    "pictures and texts": _folder,
    "pictures and a list": _listed_folder,
    "Hugging Face": _hugging_face,
}
WITHOUT_URLS = ("pictures and texts", "pictures and a list", "Hugging Face")


@pytest.mark.parametrize("kind", LISTS)
def test_a_large_text_is_its_rows_reason_and_another_cell_is_null_and_counted(
    kind: str, plan_path: Any, tmp_path: Path
) -> None:
    planned = plan_path(LISTS[kind](tmp_path), rows_per_shard=3)
    rows = planned.rows()
    assert rows["reason"].to_pylist() == [None, "cell_too_large", None, None]
    assert rows["url"].to_pylist() == ([None] * 4 if kind in WITHOUT_URLS else URLS)
    assert rows["caption"].to_pylist()[:3] == ["a", None, "b"]
    assert [value is None for value in rows["source_other"].to_pylist()] == [True] + [False] * 3
    told = [note for note in planned.plan.notes if "1048576 bytes and are null" in note]
    assert len(told) == (2 if "Parquet" in kind else 1)
    assert all(planned.plan.notes[note] == 1 for note in told)


def test_a_large_url_is_its_rows_reason(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"http://a.example/{LARGE.replace(' ', '')}\n{URLS[0]}\n")
    rows = plan_path(tmp_path / "a.txt").rows()
    assert rows["reason"].to_pylist() == ["cell_too_large", None]


def test_a_plan_without_such_cells_says_nothing_of_them(plan_path: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": URLS, "text": ["a"] * 4}), tmp_path / "a.parquet")
    planned = plan_path(tmp_path / "a.parquet", rows_per_shard=3)
    assert planned.plan.files[0].max_cell_bytes is None
    assert "max_cell_bytes" not in planned.plan.options
    assert planned.plan.num_shards == 2


def test_a_shard_of_very_long_texts_ends_early(
    plan_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.cells._SHARD_BYTES", 50_000)
    monkeypatch.setattr("pipelines.sources.cells._SHARD_BYTES_A_ROW", 0)
    monkeypatch.setattr("pipelines.sources.lists.PIECE_BYTES", 20_000)
    lines = [f"http://a.example/{number}/{'x' * 9_000}" for number in range(12)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    planned = plan_path(tmp_path / "a.txt", rows_per_shard=8)
    sizes = planned.plan.shards["num_rows"].to_pylist()
    assert sum(sizes) == 12
    assert max(sizes) < 8
    assert planned.rows()["url"].to_pylist() == lines


def test_a_large_page_is_refused_by_file_and_column(
    plan_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.sources.parquet_pages.MAX_PAGE_BYTES", 1 << 20)
    with pytest.raises(PlanError, match=r"a\.parquet: column 'text': a page of 1500\d+ bytes"):
        plan_path(_parquet(tmp_path))


def test_a_page_header_with_any_byte_changed_is_read_or_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"url": URLS[:1]}), path, use_dictionary=False, compression="none")
    content = path.read_bytes()
    refused = 0
    for at in range(4, 4 + 24):
        for flipped in (*range(1, 16), 16, 32, 64, 128):  # the low half is often a field's type
            path.write_bytes(content[:at] + bytes([content[at] ^ flipped]) + content[at + 1 :])
            [file] = Source(SourceConfig(path=str(path))).files
            try:
                list(BoundedReading(file, only=["url"], max_bytes=None).pieces(10))
            except SourceError as error:
                refused += "a.parquet: " in str(error)
    assert refused > 100


def test_the_limit_is_an_option_of_the_plan(tmp_path: Path) -> None:
    assert SourceConfig(path="a").max_cell_bytes == 1 << 20
    with pytest.raises(ValueError, match="max_cell_bytes"):
        SourceConfig(path="a", max_cell_bytes=0)


_MEASURE = """
import sys
from pipelines.plan import PlanConfig, make_plan
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceConfig
for path in sys.argv[2:]:
    make_plan(Source(SourceConfig(path=path)), PlanConfig(), store=RunStore(sys.argv[1]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) >> 10)
"""


def test_small_files_that_hold_gigabytes_are_planned_in_little_memory(tmp_path: Path) -> None:
    text, urls = "word " * 1_000_000, [f"http://a.example/{number}" for number in range(400)]
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([text]))
    lists = pa.ListArray.from_arrays(pa.array(range(401), pa.int32()), repeated)
    plain = {"store_schema": False}
    tables: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        "dictionary": (pa.table({"url": urls, "text": repeated}), plain),
        "nested": (pa.table({"url": urls, "text": urls, "o": lists}), plain),
        "prefixes": (
            pa.table({"url": urls[:40], "text": [text] * 40}),
            {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
        ),
        "one cell": (pa.table({"url": ["u"], "text": ["a"], "o": [text * 4]}), {}),
    }
    for name, (table, options) in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet", compression="zstd", **options)
    with (tmp_path / "a.jsonl").open("w") as stream:
        for url in urls[:40]:
            stream.write(f'{{"url": "{url}", "text": "{text}"}}\n')
    paths = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "run"), *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert int(done.stdout) < 600, "MiB"
