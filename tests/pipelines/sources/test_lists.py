"""Text, JSON lines and CSV: a shard is read from its bytes alone, and reads the right rows."""

import bz2
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.plan import PlanError
from pipelines.sources import Source, SourceConfig, SourceError, SourceRange
from pipelines.sources.columns import TextColumns
from pipelines.sources.lists import read_list, scan_list

FIELDS = st.text(st.sampled_from('ab",;\n\r é漢'), max_size=6)
ROWS = st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=12)
DIALECTS = st.sampled_from(
    [(csv.QUOTE_MINIMAL, "\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_NONNUMERIC, "\n")]
)


def _by_ranges(path: Path, rows_per_shard: int, **options: Any) -> list[list[Any]]:
    """url, caption and every other column, read range by range in the reverse order."""
    source = Source(SourceConfig(path=str(path), **options))
    (file,) = source.files
    read: list[list[Any]] = []
    scanned = list(scan_list(file, source.config, rows_per_shard))
    for found in reversed(scanned):
        where = SourceRange(
            shard_id=0,
            file=file.name,
            start_row=found.start_row,
            num_rows=len(found.raw.url),
            start_byte=found.start_byte,
            end_byte=found.end_byte,
        )
        raw = read_list(file, where, found.text_columns, source.config)
        assert raw.url.equals(found.raw.url)
        assert raw.caption.equals(found.raw.caption)
        columns = [raw.url, raw.caption, *raw.extra.values()]
        read[:0] = zip(*(column.to_pylist() for column in columns), strict=True)
    return [list(row) for row in read]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, dialect=DIALECTS, rows_per_shard=st.integers(1, 5))
def test_csv_ranges_hold_the_records_that_the_csv_module_wrote(
    tmp_path: Path,
    rows: list[tuple[str, str, str]],
    dialect: tuple[Any, str],
    rows_per_shard: int,
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=dialect[0], lineterminator=dialect[1])
    expected = [[f"u{url}", caption, f"{x}."] for url, caption, x in rows]
    writer.writerows([("url", "caption", "x"), *expected])
    path = tmp_path / "list.csv"
    path.write_bytes(text.getvalue().encode())
    assert _by_ranges(path, rows_per_shard) == expected


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries({"url": st.text(min_size=1).map("u{}".format), "caption": st.text()})
    ),
    blank=st.sampled_from(["", "\n", "\r\n", "  \n"]),
    rows_per_shard=st.integers(1, 4),
)
def test_json_line_ranges_hold_the_lines(
    tmp_path: Path, rows: list[dict[str, str]], blank: str, rows_per_shard: int
) -> None:
    path = tmp_path / "list.jsonl"
    path.write_bytes("".join(json.dumps(row) + "\n" + blank for row in rows).encode())
    assert _by_ranges(path, rows_per_shard) == [[row["url"], row["caption"]] for row in rows]


def test_quote_within_an_unquoted_field_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text('url,caption\na,5" pipe\nb,"x ""y""\nz"\nc,"ab"\n')
    assert _by_ranges(path, 1) == [["a", '5" pipe'], ["b", 'x "y"\nz'], ["c", "ab"]]


def test_text_is_one_url_a_line_without_captions(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfhttp://a\r\n\r\n  http://b  \nhttp://c")
    assert _by_ranges(path, 2) == [["http://a", None], ["http://b", None], ["http://c", None]]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", lambda content: pa.compress(content, "zstd", asbytes=True)),
    ],
)
def test_compressed_lists_read_as_plain_ones_do(tmp_path: Path, suffix: str, compress: Any) -> None:
    content = "url\tcaption\n" + "".join(f"http://a/{n}\tc{n}\n" for n in range(7))
    path = tmp_path / f"list.tsv{suffix}"
    path.write_bytes(compress(content.encode()))
    assert _by_ranges(path, 3) == [[f"http://a/{n}", f"c{n}"] for n in range(7)]


def test_cut_off_gzip_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(b"http://a\n" * 5000)[:-30])
    with pytest.raises(SourceError, match=r"list\.txt\.gz: .*cut off"):
        _by_ranges(path, 1000)


def test_rows_that_cannot_be_read_are_rows_with_a_reason(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"url": "u1", "caption": "c"}\n{broken\n[1]\n{"url": "", "caption": "c"}\n'
        '{"url": "u5", "caption": [1]}\n' + "[" * 5000 + "\n"
    )
    rows = plan_path(tmp_path / "a.jsonl").rows()
    assert rows["reason"].to_pylist() == [
        None,
        "row_unreadable",
        "row_unreadable",
        "url_missing",
        "row_unreadable",
        "row_unreadable",
    ]
    assert rows["error_message"].to_pylist()[4] == "caption is not text"
    (tmp_path / "b.csv").write_text("url,caption,w\nu1,c,1\nu2,c\nu3,c,1,2\n\n,c,1\n")
    rows = plan_path(tmp_path / "b.csv").rows()
    assert rows["reason"].to_pylist() == [None, "row_unreadable", "row_unreadable", "url_missing"]
    assert len(set(rows["key"].to_pylist())) == 4


def test_unclosed_quote_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b'url,caption\nu,c\nu,"' + (b"x" * 1023 + b"\n") * (17 << 10))
    with pytest.raises(SourceError, match=r"list\.csv: the record at byte 16 .* not closed"):
        _by_ranges(path, 10)


def test_megabyte_captions_and_lone_surrogates_are_read(plan_path: Any, tmp_path: Path) -> None:
    long = "x" * (1 << 20)
    (tmp_path / "a.csv").write_text(f"url,caption\nu1,{long}\n")
    assert plan_path(tmp_path / "a.csv").rows()["caption"].to_pylist() == [long]
    (tmp_path / "b.jsonl").write_text('{"url": "u", "caption": "\\ud800", "x": "\\udfff"}\n')
    rows = plan_path(tmp_path / "b.jsonl").rows()
    assert rows.select(["caption", "source_x"]).to_pylist() == [{"caption": "?", "source_x": "?"}]


def test_a_list_that_changed_under_its_plan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("http://a\nhttp://b\n")
    source = Source(SourceConfig(path=str(path)))
    (file,) = source.files
    where = SourceRange(
        shard_id=0, file="list.txt", start_row=0, num_rows=2, start_byte=0, end_byte=18
    )
    assert len(read_list(file, where, TextColumns(url="url", caption=None), source.config).url) == 2
    path.write_text("http://a\nhttp://bc\n")
    with pytest.raises(SourceError, match="plan a new run"):
        read_list(file, where, TextColumns(url="url", caption=None), source.config)


def test_empty_list_is_an_error(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("url,caption\n")
    with pytest.raises(PlanError, match="no rows"):
        plan_path(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(PlanError, match="starts with its column names"):
        plan_path(tmp_path / "b.csv")
