"""Which files a source is, and in what order."""

import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import ValidationError

from pipelines.sources import Source, SourceConfig, SourceError


def _names(path: object, **options: Any) -> list[tuple[str, str]]:
    source = Source(SourceConfig(path=str(path), **options))
    return [(file.name, file.format) for file in source.files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.csv.gz", "sub/c.jsonl", "README.md", "_SUCCESS", ".d.csv"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "in"


def test_folder_lists_known_files_by_name_and_passes_over_others(folder: Path) -> None:
    (folder / "sub" / "a.ndjson.gz").write_bytes(b"")
    for name in ("a.csv.gz", "b.parquet"):
        (folder / name).unlink()
    expected = [("sub/a.ndjson.gz", "jsonl"), ("sub/c.jsonl", "jsonl")]
    assert _names(folder) == expected
    assert _names(f"{folder}/") == expected


def test_folder_of_several_formats_is_refused_until_one_is_named(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"several formats \(csv, jsonl, parquet\); set"):
        _names(folder)
    assert _names(folder, format="csv") == [("a.csv.gz", "csv")]


def test_glob_and_single_file_keep_names_that_do_not_depend_on_where_they_lie(folder: Path) -> None:
    assert _names(folder / "*.parquet") == [("b.parquet", "parquet")]
    assert _names(folder / "**" / "*.jsonl") == [("sub/c.jsonl", "jsonl")]
    assert _names(folder / "b.parquet") == [("b.parquet", "parquet")]


def test_asked_format_wins_over_the_name(folder: Path) -> None:
    assert _names(folder / "README.md", format="text") == [("README.md", "text")]


def test_file_of_unknown_format_is_refused_with_those_allowed(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"README\.md cannot be told .* \.parquet, \.csv"):
        _names(folder / "README.md")


def test_nothing_there_is_an_error_that_shows_no_secret(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file found"):
        _names(tmp_path / "none" / "*.csv")
    with pytest.raises(SourceError, match="REDACTED@b") as error:
        _names("memory://u:p@b/none.csv")
    assert "u:p" not in str(error.value)


@pytest.mark.parametrize("path", ["nosuch://u:p@b/x.csv", "http://u:p@127.0.0.1:9/x.csv"])
def test_place_that_cannot_be_listed_is_an_error_that_shows_no_secret(path: str) -> None:
    with pytest.raises(SourceError, match="REDACTED@") as error:
        _names(path)
    assert "u:p" not in str(error.value)
    assert error.value.__cause__ is None


def test_web_server_without_ranges_is_a_source(plan_path: Any, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"http://a/{n}\n" for n in range(50)))
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/list.txt?token=s3cr3t"
        planned = plan_path(url, rows_per_shard=20)
        assert planned.shard(2)["url"].to_pylist() == [f"http://a/{n}" for n in range(40, 50)]
        server.shutdown()
    assert planned.plan.files[0].name == "list.txt"
    assert planned.plan.files[0].uri.endswith("/list.txt?token=REDACTED")


class QuietHandler(SimpleHTTPRequestHandler):
    """Python's own file server, which knows no range requests, without its log."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def test_any_fsspec_url_is_a_source() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/lists/1.txt", b"http://a\n")
    memory.pipe("/lists/0.txt", b"http://b\n")
    expected = [("0.txt", "text"), ("1.txt", "text")]
    assert _names("memory://lists") == expected
    assert _names("memory://lists/*.txt") == expected
    assert _names("memory://lists/1.txt") == [("1.txt", "text")]


def test_pair_of_parquet_and_tar_is_img2dataset_and_lone_tars_are_webdataset(
    tmp_path: Path,
) -> None:
    for name in ("00000.tar", "00000.parquet", "00000_stats.json", "00001.tar", "00001.parquet"):
        (tmp_path / name).write_bytes(b"")
    assert _names(tmp_path) == [("00000.parquet", "img2dataset"), ("00001.parquet", "img2dataset")]
    assert _names(tmp_path / "*.tar") == [("00000.tar", "webdataset"), ("00001.tar", "webdataset")]


def test_token_changes_with_the_file_and_sha256_with_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"http://a\n")
    (file,) = Source(SourceConfig(path=str(path))).files
    token, digest = file.token(), file.sha256()
    assert file.token() == token
    path.write_bytes(b"http://b\n")
    assert file.sha256() != digest
    path.write_bytes(b"http://bc\n")
    assert file.token() != token


def test_source_pickles_and_prints_without_its_secrets(folder: Path) -> None:
    config = SourceConfig(path=f"{folder}/b.parquet", storage_options={"auto_mkdir": False})
    source = Source(config)
    assert source.files
    assert pickle.loads(pickle.dumps(source)).files[0].name == "b.parquet"
    assert "auto_mkdir" not in repr(source)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="url_colum"):
        SourceConfig(path="a", url_colum="x")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="format"):
        SourceConfig(path="a", format="xml")  # type: ignore[arg-type]
