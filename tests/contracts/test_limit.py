"""`--limit N` makes a revision of a list's first rows; the same command without it goes on."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import takedown, verify
from pipelines import open_run
from pipelines.config import ConfigError
from pipelines.report.status import status_of
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from tests.contracts import cases, generation_cases, source_cases
from tests.contracts.cases import ServedList

pytestmark = pytest.mark.slow
FOLDERS = ("images", "facts/download", "facts/score", "ledger", "latents")


def files_of(run: Path) -> dict[str, list[str]]:
    """sha256 of the present revision's files, by folder, in the order of their shards."""
    return {folder: [file.sha256 for file in open_run(run).files(folder)] for folder in FOLDERS}


def test_a_run_of_the_first_rows_goes_on_to_the_bytes_of_a_run_without_a_limit(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = cases.configuration(served_list.path, run)
    whole = open_run(unharmed_run).ledger().to_pylist()

    result, said = cases.run(config, limit=25)
    assert any("the first 25 rows in 3 shards" in line for line in said)
    assert "the first 25 rows were taken (`--limit`)" in (run / "README.md").read_text()
    assert "every row is accounted for" in result.funnel
    assert [row["key"] for row in open_run(run).ledger(["key"]).to_pylist()] == [
        row["key"] for row in whole[:25]
    ]
    assert verify.main([str(run), "--deep"]) == 0
    assert "the first 25 rows; without --limit it goes on" in status_of(RunStore(str(run))).next
    _, said = cases.run(config, limit=25)
    assert said == ["nothing to do: every asked step is complete"]

    _, said = cases.run(config, limit=32)
    assert any("download: 2 of 4 shards are as they were" in line for line in said)
    assert open_run(run).ledger(["key"]).num_rows == 32
    _, said = cases.run(config)
    assert any("download: 3 of 6 shards are as they were" in line for line in said)
    assert files_of(run) == files_of(unharmed_run)
    assert "--limit" not in (run / "README.md").read_text()
    now, before = (read_revision(RunStore(str(each))).steps for each in (run, unharmed_run))
    assert {name: step.fingerprint for name, step in now.items()} == {
        name: step.fingerprint for name, step in before.items()
    }
    assert verify.main([str(run), "--deep"]) == 0
    with pytest.raises(ConfigError, match="--limit 32: the run has all 55 rows of its list"):
        cases.run(config, limit=32)
    assert cases.run(config, limit=55)[1] == ["nothing to do: every asked step is complete"]


def _csv(folder: Path, rows: list[str]) -> Path:
    path = folder / "list.csv"
    path.write_text("url,TEXT,n\n" + "\n".join(rows) + "\n")
    return path


def _rows(count: int) -> list[str]:
    return [f"http://127.0.0.1:9/{n}.jpg,a caption {n},{n}" for n in range(count)]


def _make(kind: str, folder: Path) -> Path:
    """A source of eight rows; those that hold no pictures name a server that is not there."""
    if kind == "csv":
        return _csv(folder, _rows(8))
    if kind == "jsonl":
        path = folder / "list.jsonl"
        rows = [{"url": f"http://127.0.0.1:9/{n}", "caption": f"{n}", "n": n} for n in range(8)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return path
    pictures = {f"{n:03d}.jpg": source_cases.picture(20 * n) for n in range(8)}
    if kind == "tar":
        return source_cases.write_tar(folder / "pictures.tar", pictures.items())
    if kind == "parquet_images":
        table = {"image": list(pictures.values()), "TEXT": [f"row {n}" for n in range(8)]}
        pq.write_table(pa.table(table), folder / "pictures.parquet")
        return folder / "pictures.parquet"
    files = folder / "pictures"
    files.mkdir()
    if kind == "several":
        for at in range(4):
            (files / f"{at}.txt").write_text(
                f"http://127.0.0.1:9/{at}a\nhttp://127.0.0.1:9/{at}b\n"
            )
        return files
    for name, content in pictures.items():
        (files / name).write_bytes(content)
    return files


def _ledger(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_run(run).ledger().to_pylist()
    return rows


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar", "parquet_images", "folder", "several"])
def test_every_kind_of_source_is_cut_short_and_gone_on_with(kind: str, tmp_path: Path) -> None:
    source = _make(kind, tmp_path)
    settings = (f"source.format={kind}",) if kind == "parquet_images" else ()
    run, whole = tmp_path / "run", tmp_path / "whole"
    code = source_cases.run_job(source, whole, *settings)
    assert source_cases.run_job(source, run, *settings, options=("--limit", "4")) in (0, 4)
    assert [row["key"] for row in _ledger(run)] == [row["key"] for row in _ledger(whole)[:4]]
    assert verify.main([str(run), "--deep"]) == 0
    assert source_cases.run_job(source, run, *settings) == code
    assert _ledger(run) == _ledger(whole)
    images = [[(i.key, i.content) for i in open_run(each).images()] for each in (run, whole)]
    assert images[0] == images[1]
    assert verify.main([str(run), "--deep"]) == 0


def test_going_on_survives_a_death_before_any_of_its_writes(
    tmp_path: Path, kill_at_write: Callable[[int | None], Counter[str]]
) -> None:
    source, first = _make("tar", tmp_path), tmp_path / "first"
    source_cases.run_job(source, tmp_path / "whole")
    source_cases.run_job(source, first, options=("--limit", "5"))
    number, died = 0, True
    while died:
        run = tmp_path / f"run{number}"
        shutil.copytree(first, run)
        kill_at_write(number)
        try:
            source_cases.run_job(source, run)
            died = False
        except cases.Killed:
            kill_at_write(None)
            (run / "lease.json").unlink(missing_ok=True)  # which would be waited for
            assert source_cases.run_job(source, run) == 0
        assert _ledger(run) == _ledger(tmp_path / "whole")
        assert verify.main([str(run), "--deep"]) == 0
        number += 11
    assert number > 12


def test_what_was_taken_down_of_the_first_rows_stays_down_when_the_run_goes_on(
    tmp_path: Path,
) -> None:
    source, run, whole = _make("tar", tmp_path), tmp_path / "run", tmp_path / "whole"
    source_cases.run_job(source, whole)
    source_cases.run_job(source, run, options=("--limit", "4"))
    down = [_ledger(run)[row]["key"] for row in (1, 3)]  # of a whole shard, and of the last
    keys = tmp_path / "keys.txt"
    keys.write_text("\n".join(down))
    assert takedown.main([str(run), "--keys", str(keys)]) == 0
    assert source_cases.run_job(source, run) == 0
    rows = _ledger(run)
    assert [row["reason"] for row in rows] == [None, "taken_down", None, "taken_down", *[None] * 4]
    assert [row["key"] for row in rows if row["kept"]] == [
        row["key"] for row in _ledger(whole) if row["key"] not in down
    ]
    assert not any(key in down for key in _images_of(run))
    assert verify.main([str(run), "--deep"]) == 0
    assert source_cases.run_job(source, run, options=("--retry",)) == 0


def test_a_column_that_later_rows_make_another_has_all_rows_made_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _csv(tmp_path, [*_rows(7), "http://127.0.0.1:9/7.jpg,a caption,seven"])
    run, whole = tmp_path / "run", tmp_path / "whole"
    source_cases.run_job(source, whole)
    source_cases.run_job(source, run, options=("--limit", "6"))
    assert open_run(run).ledger(["source_n"]).schema.field("source_n").type == pa.int64()
    capsys.readouterr()
    source_cases.run_job(source, run)
    assert "its columns are others now: all is made again" in capsys.readouterr().out
    assert _ledger(run) == _ledger(whole)
    assert verify.main([str(run), "--deep"]) == 0


def _images_of(run: Path) -> dict[str, bytes]:
    return {image.key: image.content for image in open_run(run).images(dropped=True)}


def _rows_by_key(run: Path) -> list[dict[str, Any]]:
    """The ledger in the list's order, without where a row lies."""
    where = {"shard_id", "row"}
    return [{name: row[name] for name in row.keys() - where} for row in _ledger(run)]


def test_a_generation_of_the_first_prompts_goes_on_to_the_images_of_one_without_a_limit(
    tmp_path: Path, kill_at_write: Callable[[int | None], Counter[str]]
) -> None:
    """Shards end where the limit did; keys, images and ledger rows are the same, in order."""
    rows = generation_cases.prompts(9)
    rows[7] = rows[1]  # the same image again, on the other side of the limit
    for number, row in enumerate(rows):
        row["seed"] = number * 7 % 5
    listed = generation_cases.write_prompts(tmp_path / "prompts.parquet", rows)
    options = {
        "select__rules": "[{best_of: {by: seed, num_images: 5}}]",
        "plan__images_per_shard": 4,
    }
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert generation_cases.command(listed, whole, **options) == 0
    assert generation_cases.command(listed, run, "--limit", "5", **options) == 0
    keys = [[row["key"] for row in _ledger(each)] for each in (run, whole)]
    assert keys[0] == keys[1][:5]
    assert verify.main([str(run), "--deep"]) == 0
    assert generation_cases.command(listed, run, "--limit", "3", **options) == 2
    assert generation_cases.command(listed, run, "--grow", **options) == 2

    kill_at_write(5)  # in the middle of going on
    with pytest.raises(cases.Killed):
        generation_cases.command(listed, run, **options)
    kill_at_write(None)
    (run / "lease.json").unlink(missing_ok=True)
    assert generation_cases.command(listed, run, **options) == 0
    assert _rows_by_key(run) == _rows_by_key(whole)
    assert _images_of(run) == _images_of(whole)
    assert verify.main([str(run), "--deep"]) == 0
