"""CSV, TSV, text and JSON lines through the real command: no line is swallowed, no text guessed."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest

from jobs import verify
from tests.contracts.cases import ServedList
from tests.contracts.earlier_plans import plan_as_earlier
from tests.contracts.source_cases import captions, ledger, run_job

pytestmark = pytest.mark.slow


def urls(served_list: ServedList, count: int) -> list[str]:
    return [f"{served_list.server.url}/{number:03d}.png" for number in range(count)]


def table(served_list: ServedList, texts: list[str], *, sign: str = ",", end: str = "\n") -> str:
    """A list with these captions, just as they are."""
    lines = [f"url{sign}caption", *map(sign.join, zip(urls(served_list, 9), texts, strict=False))]
    return "".join(line + end for line in lines)


RAW_QUOTES = ['6" pipe', '"half', 'whole"', '"quoted" start', 'the end "', '"', "plain"]


def test_raw_quotes_of_tsv_swallow_no_line(served_list: ServedList, tmp_path: Path) -> None:
    path, output = tmp_path / "list.tsv", tmp_path / "run"
    path.write_text(table(served_list, RAW_QUOTES, sign="\t"))
    assert run_job(path, output) == 0
    assert captions(output) == RAW_QUOTES
    assert verify.main([str(output), "--deep"]) == 0


def test_quoted_tsv_is_read_when_told_and_said_when_not(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ['a "b"', "two\nlines", "tab\there", "plain"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([("url", "caption"), *zip(urls(served_list, 4), texts, strict=True)])
    path, output = tmp_path / "list.tsv.gz", tmp_path / "run"
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    assert run_job(path, output, "source.csv.quoting=minimal") == 0
    assert captions(output) == texts
    assert run_job(path, tmp_path / "untold") == 0
    assert "stand in quotes, which are read as plain characters" in capsys.readouterr().out
    reasons = [row["reason"] for row in ledger(tmp_path / "untold")]
    assert reasons == [None, None, "row_unreadable", "row_unreadable", None]


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["a", '"never closed', "c", "d"], 3),
        (["a", '"closed in', 'another" row', "d"], 3),
        (["a", "b", '"closed at its', 'end"', "e"], 4),
        (["a", "b", "c", '"last'], 5),
    ],
)
def test_an_unclosed_quote_of_csv_is_an_error_that_names_its_line(
    served_list: ServedList,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    texts: list[str],
    line: int,
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(table(served_list, texts))
    assert run_job(path, tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert f"(line {line})" in error
    assert "source.csv.quoting to none" in error
    assert run_job(path, tmp_path / "told", "source.csv.quoting=none") == 0
    assert captions(tmp_path / "told") == texts


def test_csv_by_rfc_4180_keeps_its_line_breaks(served_list: ServedList, tmp_path: Path) -> None:
    texts = ['say "hi"', "two\nlines", "two\r\nlines", "a, b", "", "lone\rreturn", "\n\nhttp://x"]
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("url", "caption"), *zip(urls(served_list, 7), texts, strict=True)])
    path, output = tmp_path / "list.csv", tmp_path / "run"
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    assert run_job(path, output) == 0
    assert captions(output) == texts


def test_a_quote_in_the_wrong_place_costs_its_row_alone(
    served_list: ServedList, tmp_path: Path
) -> None:
    path, output = tmp_path / "list.csv", tmp_path / "run"
    path.write_text(table(served_list, ["a", '"quoted" start', "c", '"d"', "e,f"]))
    assert run_job(path, output) == 0
    assert [row["reason"] for row in ledger(output)] == [
        None,
        "row_unreadable",
        None,
        None,
        "row_unreadable",
    ]
    assert captions(output)[2:4] == ["c", "d"]


def test_delimiter_and_escape_are_told(served_list: ServedList, tmp_path: Path) -> None:
    path, output = tmp_path / "list.csv", tmp_path / "run"
    path.write_text(table(served_list, [r'"say \"hi\"; ok"', r"a\; b", "c"], sign=";"))
    assert run_job(path, output, "source.csv.delimiter=;", r"source.csv.escape='\'") == 0
    assert captions(output) == ['say "hi"; ok', "a; b", "c"]


@pytest.mark.parametrize("sign", [";", "|", "\t"])
def test_a_wrong_delimiter_is_an_error_that_names_the_right_one(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(table(served_list, ["a", "b"], sign=sign))
    assert run_job(path, tmp_path / "run") == 2
    assert f"parted by {sign!r}? Set source.csv.delimiter" in capsys.readouterr().err
    told = "tab" if sign == "\t" else sign
    assert run_job(path, tmp_path / "told", f"source.csv.delimiter={json.dumps(told)}") == 0
    assert captions(tmp_path / "told") == ["a", "b"]


@pytest.mark.parametrize("setting", ["delimiter=ab", "escape='\"'", "quoting=all"])
def test_options_that_make_no_sense_are_refused(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(table(served_list, ["a"]))
    assert run_job(path, tmp_path / "run", f"source.csv.{setting}") == 2
    assert f"source.csv.{setting.split('=')[0]}" in capsys.readouterr().err


ACCENTS = ["café", "straße, niño", "Überraschung „“", "plain"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"])
def test_lists_are_read_by_their_mark_or_a_named_encoding(
    served_list: ServedList,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    encoding: str,
) -> None:
    texts = ACCENTS if kind != "txt" else [None] * 4
    if kind == "txt":
        content = "\n".join(urls(served_list, 4)) + "\n# café\n"
    elif kind == "jsonl":
        rows = zip(urls(served_list, 4), ACCENTS, strict=True)
        content = "\n".join(
            json.dumps({"url": u, "caption": c}, ensure_ascii=False) for u, c in rows
        )
    else:
        quoted = [f'"{text}"' if kind == "csv" else text for text in ACCENTS]
        content = table(served_list, quoted, sign="," if kind == "csv" else "\t", end="\r\n")
    path, output = tmp_path / f"list.{kind}", tmp_path / "run"
    path.write_bytes(content.encode(encoding))
    if encoding in ("cp1252", "utf-16-be"):
        assert run_job(path, output) == 2
        assert "source.csv.encoding" in capsys.readouterr().err
        assert run_job(path, output, f"source.csv.encoding={encoding}") == 0
    else:
        assert run_job(path, output) == 0
    assert captions(output)[:4] == texts
    assert [row["url"] for row in ledger(output)][:4] == urls(served_list, 4)
    assert verify.main([str(output)]) == 0


def test_bytes_that_are_not_of_the_named_encoding_cost_their_row_alone(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "list.csv", tmp_path / "run"
    lines = table(served_list, ["a", "b", "c"]).encode().splitlines(keepends=True)
    lines[2] = lines[2].replace(b",b", b",caf\xe9")
    path.write_bytes(b"".join(lines))
    assert run_job(path, output) == 2
    error = capsys.readouterr().err
    assert "line 3" in error
    assert "e9" in error
    assert run_job(path, output, "source.csv.encoding=utf-8") == 0
    assert [row["reason"] for row in ledger(output)] == [None, "row_unreadable", None]
    assert captions(output) == ["a", None, "c"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("utf-8-sig", "latin-1"),
        ("utf-8", "base64"),
        ("utf-8", "utf-16"),
        ("utf-8", "utf-16-le"),
        ("utf-8", "latin-1"),
        ("utf-16-le", "utf-16-be"),
        ("utf-16-le", "utf-8"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "txt"])
def test_an_encoding_that_cannot_be_is_refused(
    served_list: ServedList,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    written: str,
    told: str,
) -> None:
    path = tmp_path / f"list.{kind}"
    path.write_bytes(table(served_list, ["caf\xe9", "b"]).encode(written))
    assert run_job(path, tmp_path / "run", f"source.csv.encoding={told}") == 2
    assert "source.csv.encoding" in capsys.readouterr().err


def test_a_quoted_header_of_tsv_is_an_error_that_says_how_to_read_it(
    served_list: ServedList, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(table(served_list, ["a"], sign='"\t"').replace("\n", '"\n"').strip('"'))
    path.write_text('"' + path.read_text())
    assert run_job(path, tmp_path / "run") == 2
    assert "Set source.csv.quoting to minimal" in capsys.readouterr().err
    assert run_job(path, tmp_path / "run", "source.csv.quoting=minimal") == 0
    assert captions(tmp_path / "run") == ["a"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "txt"])
def test_lines_that_end_in_a_carriage_return_alone_are_lines(
    served_list: ServedList, tmp_path: Path, kind: str
) -> None:
    texts = ["a", "b", "c", "d"] if kind != "txt" else [None] * 4
    if kind == "txt":
        content = "".join(f"{url}\r" for url in urls(served_list, 4))
    elif kind == "jsonl":
        rows = zip(urls(served_list, 4), "abcd", strict=True)
        content = "\r".join(json.dumps({"url": url, "caption": text}) for url, text in rows)
    else:
        texts[1] = '"two\nlines"' if kind == "csv" else "b"
        content = table(served_list, texts, sign="," if kind == "csv" else "\t", end="\r")
        texts[1] = texts[1].strip('"')
    path, output = tmp_path / f"list.{kind}", tmp_path / "run"
    path.write_bytes(content.encode())
    assert run_job(path, output) == 0
    assert captions(output) == texts
    assert [row["reason"] for row in ledger(output)] == [None] * 4


@pytest.mark.parametrize(
    ("kind", "encoding", "end"),
    [("csv", "utf-16", "\r\n"), ("tsv", "cp1252", "\r"), ("csv", "utf-8", "\n")],
)
def test_lists_of_every_writing_grow(
    served_list: ServedList, tmp_path: Path, kind: str, encoding: str, end: str
) -> None:
    texts = ["é", '"two\nlines"' if kind == "csv" else '"raw', "c", "d", "e", "f", "g"]
    content = table(served_list, texts, sign="," if kind == "csv" else "\t", end=end)
    rows = content.split(end)[:-1]
    if kind == "csv" and end == "\n":
        rows[2:4] = ["\n".join(rows[2:4])]
    path, output = tmp_path / f"list.{kind}", tmp_path / "run"
    told = ["source.csv.encoding=cp1252"] if encoding == "cp1252" else []
    path.write_bytes(end.join(rows[:5]).encode(encoding))  # the last line has no end yet
    assert run_job(path, output, *told) == 0
    assert len(captions(output)) == 4
    path.write_bytes((end.join(rows) + end).encode(encoding))
    assert run_job(path, output, *told, options=("--grow",)) == 0
    assert captions(output) == [text.replace('"', "") if kind == "csv" else text for text in texts]
    assert verify.main([str(output), "--deep"]) == 0


def test_a_list_that_an_earlier_version_planned_keeps_its_rows(
    served_list: ServedList, tmp_path: Path
) -> None:
    path, output = tmp_path / "list.tsv", tmp_path / "run"
    path.write_bytes(table(served_list, ["a", '"b"', "caf\xe9"], sign="\t").encode("latin-1"))
    plan_as_earlier(path, output, rows_per_shard=3)
    assert run_job(path, output) == 0
    assert captions(output) == ["a", "b", "caf\ufffd"]
    with path.open("ab") as stream:
        stream.write(f'{urls(served_list, 4)[3]}\t"d"\n'.encode())
    assert run_job(path, output, options=("--grow",)) == 0
    assert captions(output) == ["a", "b", "caf\ufffd", "d"]
    assert verify.main([str(output), "--deep"]) == 0
