"""Paths and `file://` URLs in a list: read under one folder, and nowhere else on the machine."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from jobs import verify
from pipelines.sources.pictures import list_folder, read_files
from pipelines.steps.download.local_files import LocalFiles
from sd_core.errors import EnvironmentFault
from tests.contracts.source_cases import ledger, picture, run_job, stored_shades

pytestmark = pytest.mark.slow


def test_each_path_is_its_own_picture_or_its_own_reason(tmp_path: Path) -> None:
    root, outside = tmp_path / "pictures", tmp_path / "secret.jpg"
    (root / "in folder").mkdir(parents=True)
    outside.write_bytes(picture(90))
    for number, name in enumerate(("a.jpg", "in folder/b.jpg", "c#1.jpg"), start=1):
        (root / name).write_bytes(picture(10 * number))
    (root / "link.jpg").symlink_to(outside)
    (root / "empty.jpg").write_bytes(b"")
    (root / "large.jpg").write_bytes(bytes(5000))
    (root / "text.jpg").write_text("no picture")
    os.mkfifo(root / "pipe.jpg")
    ends = {
        "a.jpg": 1,
        f"file://{root}/in%20folder/b.jpg": 2,
        f"{root}/c#1.jpg": 3,
        "in folder/../a.jpg": "duplicate_bytes",
        "../secret.jpg": "address_refused",
        f"file://{outside}": "address_refused",
        "link.jpg": "address_refused",
        "/etc/passwd": "address_refused",
        "gone.jpg": "file_missing",
        "in folder": "file_missing",
        "pipe.jpg": "file_missing",
        "a\0.jpg": "file_missing",
        "empty.jpg": "empty_body",
        "large.jpg": "body_too_large",
        "text.jpg": "format_unsupported",
        "ftp://host/a.jpg": "scheme_refused",
    }
    table = pa.table({"url": list(ends), "caption": [f"c{n}" for n in range(len(ends))]})
    pq.write_table(table, tmp_path / "list.parquet")
    output = tmp_path / "run"
    settings = (f"source.files_root={root}", "download.max_bytes=4096")
    assert run_job(tmp_path / "list.parquet", output, *settings) == 0
    shades = stored_shades(output)
    found = {
        row["caption"]: row["reason"] or round(shades[row["key"]] / 10) for row in ledger(output)
    }
    assert found == {f"c{n}": end for n, end in enumerate(ends.values())}
    assert verify.main([str(output), "--deep"]) == 0


def test_without_the_folder_no_file_is_read_and_it_cannot_be_given_to_a_begun_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(10))
    (tmp_path / "list.txt").write_text(f"file://{tmp_path}/a.jpg\n{tmp_path}/a.jpg\na.jpg\n")
    output = tmp_path / "run"
    assert run_job(tmp_path / "list.txt", output) == 4
    reasons = [row["reason"] for row in ledger(output)]
    assert reasons == ["scheme_refused", "url_invalid", "url_invalid"]
    root = f"source.files_root={tmp_path}"
    assert run_job(tmp_path / "list.txt", output, root) == 2
    assert "source.files_root" in capsys.readouterr().err
    assert run_job(tmp_path / "list.txt", tmp_path / "b", f"{root}/nowhere") == 2
    assert "no folder of this machine" in capsys.readouterr().err


def test_a_folder_that_is_not_there_any_more_is_charged_to_no_row(tmp_path: Path) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "a.jpg").write_bytes(picture(10))
    files = LocalFiles(str(root), max_bytes=1 << 20)
    stored = list_folder(LocalFileSystem(), str(root))
    shutil.rmtree(root)
    with pytest.raises(EnvironmentFault, match="not on this machine"):
        files.read("a.jpg")
    with pytest.raises(EnvironmentFault, match="is gone"):
        list(read_files(LocalFileSystem(), stored))
