"""The way out: an export holds the kept rows, each once, as others read them, or says why not."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from jobs import export
from jobs.bench.s3_emulator import S3Endpoint
from pipelines import open_run
from pipelines.run.store import RunStore
from tests.contracts.cases import Killed
from tests.contracts.source_cases import ledger, run_job

pytestmark = [
    pytest.mark.slow,
    # webdataset closes no tar that it has read to its end, and datasets warns of itself
    pytest.mark.filterwarnings("ignore"),
]


def kept(run: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in open_run(run).kept().to_pylist()}


def images(run: Path) -> dict[str, bytes]:
    return {image.key: image.content for image in open_run(run).images()}


def read_webdataset(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    paths = sorted(map(str, folder.glob("*.tar")))
    for sample in webdataset.WebDataset(paths, shardshuffle=False, empty_check=False):
        told = json.loads(sample["json"])
        yield sample["__key__"], {**told, "image": sample["jpg"], "npy": sample.get("latents.npy")}


def read_huggingface(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import datasets

    found = datasets.load_dataset(
        str(folder), split="train", cache_dir=str(folder.parent / "cache")
    )
    assert found.features["image"] == datasets.Image()
    for row in found.cast_column("image", datasets.Image(decode=False)):
        yield row["key"], {**row, "image": row["image"]["bytes"], "npy": row.get("latents.npy")}


def read_parquet(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*.parquet")):
        for row in pq.ParquetFile(path).read().to_pylist():
            image = row["image"]["bytes"]
            yield row["key"], {**row, "image": image, "npy": row.get("latents.npy")}


def read_folder(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.glob("*/metadata.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            npy = path.parent / f"{row['key']}.latents.npy"
            image = (path.parent / row["file_name"]).read_bytes()
            told = {"caption": row["text"], "image": image}
            yield row["key"], {**row, **told, "npy": npy.read_bytes() if npy.exists() else None}


READERS = {
    "webdataset": read_webdataset,
    "huggingface": read_huggingface,
    "parquet": read_parquet,
    "folder": read_folder,
}


@pytest.mark.parametrize("name", READERS)
def test_each_format_holds_every_kept_row_once_with_its_image_fields_and_latents(
    name: str, unharmed_run: Path, tmp_path: Path
) -> None:
    to = tmp_path / "set"
    asked = [str(unharmed_run), "--to", str(to), "--format", name, "--latents"]
    assert export.main(asked) == 0
    rows, found = kept(unharmed_run), list(READERS[name](to))
    assert [key for key, _ in found] == list(rows)
    contents = images(unharmed_run)
    for key, row in found:
        assert row["image"] == contents[key]
        assert row["caption"] == rows[key]["caption"]
        assert row["source_licence"] == rows[key]["source_licence"]
        assert row["aesthetic_v1"] == pytest.approx(rows[key]["aesthetic_v1"])
    latents = {sample.key: sample.raw_latents for sample in open_run(unharmed_run).latents()}
    (tmp_path / "one.npy").write_bytes(found[0][1]["npy"])
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), latents[found[0][0]])
    record = json.loads((to / "export.json").read_text())
    assert record["rows"] == len(rows)
    written = {str(p.relative_to(to)) for p in to.rglob("*") if p.is_file()}
    assert written == {file["path"] for file in record["files"]} | {"README.md", "export.json"}
    made = {path: path.stat().st_mtime_ns for path in to.rglob("*")}
    assert export.main(asked) == 0, "again, with nothing to do"
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*")} == made
    lost = to / record["files"][-1]["path"]
    content = lost.read_bytes()
    lost.unlink()
    assert export.main(asked) == 0
    assert lost.read_bytes() == content


def test_a_choice_by_sql_columns_and_number_is_what_goes_out(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = sorted((row["aesthetic_v1"] for row in kept(unharmed_run).values()), reverse=True)
    asked = [str(unharmed_run), "--format", "parquet", "--columns", "url", "--limit", "2"]
    told = [*asked, "--where", f"aesthetic_v1 >= {best[3]}"]
    assert export.main([*told, "--to", str(tmp_path / "set")]) == 0
    found = list(read_parquet(tmp_path / "set"))
    chosen = [k for k, row in kept(unharmed_run).items() if row["aesthetic_v1"] >= best[3]]
    assert [key for key, _ in found] == chosen[:2]
    assert set(found[0][1]) == {"key", "image", "caption", "url", "npy"}
    assert export.main([*asked, "--to", str(tmp_path / "a"), "--where", "no_such > 1"]) == 2
    assert "no_such" in capsys.readouterr().err
    none = [*asked, "--to", str(tmp_path / "b"), "--where", "aesthetic_v1 > 1000"]
    assert export.main(none) == 4


def test_a_folder_of_another_export_or_of_other_things_is_refused_untouched(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "set"
    to.mkdir()
    (to / "mine.txt").write_text("mine")
    asked = [str(unharmed_run), "--to", str(to), "--format", "folder"]
    assert export.main(asked) == 2
    assert [path.name for path in to.iterdir()] == ["mine.txt"]
    (to / "mine.txt").unlink()
    assert export.main([*asked, "--limit", "1"]) == 0
    assert export.main(asked) == 2
    assert "another limit" in capsys.readouterr().err
    for content in ("[]", "mine"):
        (to / "export.json").write_text(content)
        assert export.main(asked) == 2
        assert "its export.json is no export's" in capsys.readouterr().err
    within = unharmed_run / "images" / "set"
    assert export.main([str(unharmed_run), "--to", str(within), "--format", "folder"]) == 2
    assert not within.exists()


@pytest.mark.parametrize(("name", "limit"), [("webdataset", "99"), ("folder", "9")])
def test_an_export_that_was_killed_anywhere_goes_on_to_the_same_bytes(
    name: str, limit: str, unharmed_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [str(unharmed_run), "--format", name, "--limit", limit, "--to"]
    whole = tmp_path / "whole"
    assert export.main([*asked, str(whole)]) == 0
    bytes_of = {p.relative_to(whole): p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    writes = {name: getattr(RunStore, name) for name in ("put_file", "replace", "delete")}
    to, allowed = tmp_path / "set", 0
    while not (to / "export.json").exists() or (to / "_export/identity.json").exists():
        left = [allowed]
        for name, original in writes.items():

            def guarded(*arguments: Any, original: Any = original, left: list[int] = left) -> Any:
                if not left[0]:
                    raise Killed
                left[0] -= 1
                return original(*arguments)

            monkeypatch.setattr(RunStore, name, guarded)
        try:
            export.main([*asked, str(to)])
        except Killed:
            allowed += 1
    monkeypatch.undo()
    assert allowed > 3
    assert {p.relative_to(to): p.read_bytes() for p in to.rglob("*") if p.is_file()} == bytes_of


def test_a_run_on_s3_is_exported_to_s3_and_gone_on_with_there(
    unharmed_run: Path, s3_endpoint: S3Endpoint, tmp_path: Path
) -> None:
    store = fsspec.filesystem("s3")
    store.put(f"{unharmed_run}/", f"{s3_endpoint.bucket}/exported/run", recursive=True)
    run, to = (f"s3://{s3_endpoint.bucket}/exported/{name}" for name in ("run", "set"))
    asked = [run, "--to", to, "--format", "huggingface", "--columns", "source_licence", "--latents"]
    assert export.main(asked) == 0
    store.rm(f"{to}/data/train-00000-of-00005.parquet")
    assert export.main(asked) == 0
    store.get(to, str(tmp_path / "set"), recursive=True)
    found = {key: row["image"] for key, row in read_huggingface(tmp_path / "set")}
    assert found == images(unharmed_run)


def test_a_damaged_tar_or_a_lost_image_ends_an_export_by_name(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    tar = next(iter(sorted((run / "_work/images").glob("*.tar"))))
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    asked = [str(run), "--to", str(tmp_path / "set"), "--format", "folder"]
    assert export.main(asked) == 1
    assert tar.name in capsys.readouterr().err
    assert not (tmp_path / "set/export.json").exists()


def test_an_exported_folder_comes_in_again_as_the_rows_that_it_is(
    unharmed_run: Path, tmp_path: Path
) -> None:
    to = tmp_path / "set"
    assert export.main([str(unharmed_run), "--to", str(to), "--format", "folder"]) == 0
    assert run_job(to, tmp_path / "again") == 0
    again = {row["source_key"]: row["caption"] for row in ledger(tmp_path / "again")}
    assert again == {key: row["caption"] for key, row in kept(unharmed_run).items()}
