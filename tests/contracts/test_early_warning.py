"""Where nearly all of the first rows drop for one reason, one line says so at once, and no more."""

from pathlib import Path
from typing import Any

import pytest

from jobs.demo.bad_answers import answer
from jobs.demo.server import LoopbackServer
from tests.contracts import generation_cases, source_cases

pytestmark = pytest.mark.slow


def _urls(path: Path, urls: list[str]) -> Path:
    path.write_text(
        "\n".join(["url,TEXT", *(f"{url},a caption {n}" for n, url in enumerate(urls))])
    )
    return path


def _warnings(told: str) -> list[str]:
    return [line for line in told.splitlines() if "warning:" in line and "are dropped as" in line]


def _run(
    tmp_path: Path, urls: list[str], capsys: pytest.CaptureFixture[str], *settings: str
) -> list[str]:
    listed = _urls(tmp_path / "list.csv", urls)
    assert source_cases.run_job(listed, tmp_path / "run", *settings) in (0, 4)
    return _warnings(capsys.readouterr().out)


def test_a_network_that_is_not_there_is_told_by_the_first_shard_with_an_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urls = [f"http://127.0.0.1:9/{n}.jpg?X-Amz-Signature=geheim{n}" for n in range(40)]
    (line,) = _run(tmp_path, urls, capsys, "plan.rows_per_shard=12")
    assert (
        "warning: 12 of the first 12 rows are dropped as connection_failed, such as row 0" in line
    )
    assert "http://127.0.0.1:9/0.jpg" in line
    assert "is this machine offline" in line
    assert "geheim" not in line


def test_small_shards_are_looked_at_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = _run(
        tmp_path, ["http://10.0.0.1/a.jpg"] * 1 + [f"ftp://x/{n}" for n in range(30)], capsys
    )
    assert "of the first 21 rows are dropped as scheme_refused" in line
    assert "source.files_root" in line


def test_a_good_start_says_nothing_and_nor_do_a_few_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(tmp_path, ["http://127.0.0.1:9/a.jpg"] * 4, capsys) == []
    urls = [f"http://127.0.0.1:9/{n}.jpg" if n % 2 else f"ftp://x/{n}" for n in range(30)]
    assert _run(tmp_path / "..", urls, capsys, f"output={tmp_path / 'mixed'}") == []


def test_a_large_shard_is_told_of_while_it_is_still_being_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit of the shard, which is of one reason too, then says nothing more."""
    seen: list[int] = []

    async def refuse(request: Any, reply: Any) -> None:
        seen.append(len(seen))
        if len(seen) == 240:
            monkeypatch.setattr("pipelines.steps.download.first_rows.warning_of", None)  # too late
        await answer(403)(request, reply)

    folder = tmp_path / "served"
    folder.mkdir()
    handlers = {f"/{n}.jpg": refuse for n in range(260)}
    with LoopbackServer(folder, handlers=handlers) as server:
        urls = [f"{server.url}/{n}.jpg" for n in range(260)]
        settings = ("plan.rows_per_shard=300", "download.threads=4")
        (line,) = _run(tmp_path, urls, capsys, *settings)
    assert "warning: 190 of the first 200 rows are dropped as http_forbidden, such as row " in line
    assert "hot-linking, or the user agent; see download.user_agent" in line


def test_a_wrong_column_is_told_before_anything_is_fetched_and_a_strict_rule_by_select(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = [(f"{n:03d}.jpg", source_cases.picture(n * 6)) for n in range(20)]
    source = source_cases.write_tar(tmp_path / "pictures.tar", tar)
    rule = "select.rules=[{column: original_width, min: 5000}]"
    settings = (rule, "plan.rows_per_shard=20")
    assert source_cases.run_job(source, tmp_path / "run", *settings) == 4
    (line,) = _warnings(capsys.readouterr().out)
    assert "warning: 20 of the first 20 rows are dropped as value_below_min" in line
    assert "--steps select,encode" in line
    (tmp_path / "ids.csv").write_text("url,TEXT\n" + ",one\n" * 15)
    settings = ("plan.rows_per_shard=20", f"output={tmp_path / 'other'}")
    assert source_cases.run_job(tmp_path / "ids.csv", tmp_path / "other", *settings) == 4
    (line,) = _warnings(capsys.readouterr().out)
    assert "are dropped as url_missing" in line
    assert "source.url_column" in line


def test_a_generation_tells_of_prompts_that_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "width": 63} for row in generation_cases.prompts(12)]
    listed = generation_cases.write_prompts(tmp_path / "prompts.parquet", rows)
    assert generation_cases.command(listed, tmp_path / "run") == 4
    (line,) = _warnings(capsys.readouterr().out)
    assert "warning: 12 of the first 12 rows are dropped as size_invalid" in line
    assert "a large red circle number 0" in line
