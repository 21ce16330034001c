"""A run that has begun takes in new rows, and fetches again what failed for a passing reason."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import takedown, verify
from jobs.demo.bad_answers import answer
from jobs.demo.exchange import Reply, Request
from jobs.demo.server import LoopbackServer
from pipelines.config import ConfigError
from pipelines.plan import PlanError
from pipelines.run.record import RunMismatchError, read_revision
from pipelines.run.store import RunStore
from tests.contracts import cases
from tests.contracts.cases import ServedList
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow
FOLDERS = ("images", "facts/download", "facts/score", "ledger", "latents")


class FlakyServer:
    """Serves the pictures; some of them only once it is `up`."""

    def __init__(self, folder: Path) -> None:
        self.up = False
        self.folder = folder
        statuses = {3: 503, 11: 429, 14: 500, 15: 404}
        self.paths = {f"/{number:03d}.png" for number in (3, 11, 14)}
        handlers = {f"/{number:03d}.png": self._handler(n) for number, n in statuses.items()}
        self.server = LoopbackServer(folder, handlers=handlers)

    def _handler(self, status: int):  # type: ignore[no-untyped-def]
        async def serve(request: Request, reply: Reply) -> None:
            if self.up and status != 404:
                body = (self.folder / request.path.lstrip("/")).read_bytes()
                good = answer(200, body, headers={"Content-Type": "image/png"})
                await good(request, reply)
            else:
                await answer(status)(request, reply)

        return serve


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[FlakyServer]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cases.write_pictures(folder)
    flaky = FlakyServer(folder)
    with flaky.server:
        yield flaky


def first_rows(served_url: str, path: Path, num_rows: int) -> Path:
    cases.write_list(path, served_url)
    pq.write_table(pq.read_table(path).slice(0, num_rows), path)
    return path


def listed(run: Path) -> dict[str, list[str]]:
    """The names of the committed files of each folder that there is."""
    there = (folder for folder in FOLDERS if (run / "_work" / folder / "shards.txt").exists())
    return {folder: [path.name for path in committed_files(run, folder)] for folder in there}


def reasons(run: Path) -> Counter[str | None]:
    paths = committed_files(run, "ledger")
    tables = [pq.read_table(path, columns=["reason"]) for path in paths]
    return Counter(pa.concat_tables(tables)["reason"].to_pylist())


def test_a_retry_fetches_only_what_may_have_passed_and_equals_a_run_where_nothing_failed(
    flaky: FlakyServer, tmp_path: Path
) -> None:
    path = first_rows(flaky.server.url, tmp_path / "list.parquet", 30)
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    config = cases.configuration(path, run)
    cases.run(config)
    before = reasons(run)
    assert before["http_server_error"] == 2
    assert before["http_rate_limited"] == 1
    flaky.up = True
    flaky.server.hits.clear()
    _, said = cases.run(config, retry=True)
    assert set(flaky.server.hits) == flaky.paths
    assert "http_rate_limited 1, http_server_error 2" in "\n".join(said)
    assert "score: 1 of 3 shards are as they were" in said
    assert verify.main([str(run), "--deep"]) == 0
    after = reasons(run)
    assert after["http_not_found"] == before["http_not_found"] == 1
    assert not after["http_server_error"]
    assert not after["http_rate_limited"]

    cases.run(cases.configuration(path, fresh))
    assert listed(run) == listed(fresh)
    _, said = cases.run(config)
    assert said == ["nothing to do: every asked step is complete"]
    _, said = cases.run(config, retry=True)
    assert "retry: no row failed for a reason that can pass, no shard was given up" in said


def test_a_retry_that_fails_again_changes_nothing_but_may_be_repeated(
    flaky: FlakyServer, tmp_path: Path
) -> None:
    path = first_rows(flaky.server.url, tmp_path / "list.parquet", 20)
    run = tmp_path / "run"
    config = cases.configuration(path, run)
    cases.run(config)
    before = listed(run)
    for _ in range(2):
        flaky.server.hits.clear()
        _, said = cases.run(config, retry=True)
        assert set(flaky.server.hits) == flaky.paths
    assert listed(run) == before
    assert any("0 rows newly kept, 0 no longer" in line for line in said)


def test_a_retry_with_other_options_is_refused(flaky: FlakyServer, tmp_path: Path) -> None:
    path = first_rows(flaky.server.url, tmp_path / "list.parquet", 10)
    cases.run(cases.configuration(path, tmp_path / "run"))
    other = cases.configuration(path, tmp_path / "run", image__size=128)
    with pytest.raises(RunMismatchError, match=r"image\.size"):
        cases.run(other, retry=True)
    with pytest.raises(ConfigError, match="one, then the other"):
        cases.run(other, retry=True, grow=True)


@pytest.mark.parametrize("kind", ["parquet", "txt"])
def test_new_rows_make_new_shards_and_the_old_ones_stay(
    served_list: ServedList, tmp_path: Path, kind: str
) -> None:
    table = pq.read_table(served_list.path)
    path, run = tmp_path / f"list.{kind}", tmp_path / "run"
    options = {"encode": "null", "score": "null", "select": "{}"} if kind == "txt" else {}

    def write(num_rows: int) -> None:
        if kind == "parquet":
            pq.write_table(table.slice(0, num_rows), path)
        else:  # no line end after the last: it comes with the next rows
            path.write_text("\n".join(table["URL"].to_pylist()[:num_rows]))

    write(25)
    config = cases.configuration(path, run, **options)
    cases.run(config)
    before = listed(run)
    write(cases.NUM_ROWS)
    with pytest.raises(PlanError, match="give --grow"):
        cases.run(config)
    hits = dict(served_list.server.hits)
    _, said = cases.run(config, grow=True)
    assert f"the list has {cases.NUM_ROWS - 25} new rows" in said
    again = {urlpath for urlpath, n in served_list.server.hits.items() if n > hits.get(urlpath, 0)}
    assert not again & {f"/{number:03d}.png" for number in range(25)}
    for folder in ("images", "facts/download", "facts/score"):
        if folder in before:
            now = [path.name for path in committed_files(run, folder)]
            assert now[: len(before[folder])] == before[folder], folder
    counts = reasons(run)
    assert counts.total() == cases.NUM_ROWS
    assert counts["duplicate_row"] == 1, "of a row in an old shard"
    assert verify.main([str(run), "--deep"]) == 0
    _, said = cases.run(config, grow=True)
    assert "the list has 0 new rows" in said
    _, said = cases.run(config)
    assert said == ["nothing to do: every asked step is complete"]


def test_a_list_that_changed_otherwise_is_refused(served_list: ServedList, tmp_path: Path) -> None:
    table = pq.read_table(served_list.path)
    path, run = tmp_path / "list.parquet", tmp_path / "run"
    pq.write_table(table.slice(0, 10), path)
    config = cases.configuration(path, run)
    cases.run(config)
    pq.write_table(table.slice(1, 12), path)
    with pytest.raises(PlanError, match="not those that were planned"):
        cases.run(config, grow=True)
    assert read_revision(RunStore(str(run))).steps["download"].num_shards == 1


def test_what_was_taken_down_does_not_come_back_by_growth_or_retry(
    served_list: ServedList, tmp_path: Path
) -> None:
    table = pq.read_table(served_list.path)
    path, run = tmp_path / "list.parquet", tmp_path / "run"
    pq.write_table(table.slice(0, 20), path)
    config = cases.configuration(path, run)
    cases.run(config)
    urls = table["URL"].to_pylist()
    # The eighth picture is a copy of the seventh, and is in the list under a URL of its own.
    (tmp_path / "urls.txt").write_text(f"{urls[2]}\n{urls[6]}\n")
    assert takedown.main([str(run), "--urls", str(tmp_path / "urls.txt")]) == 0
    assert reasons(run)["taken_down"] == 3
    again = pa.table(
        {
            "URL": [urls[2], urls[6], urls[2]],
            "TEXT": [table["TEXT"][2].as_py(), "new", "other"],
            "licence": ["CC0"] * 3,
        }
    )
    pq.write_table(pa.concat_tables([table.slice(0, 20), again, table.slice(30, 5)]), path)
    served_list.server.hits.clear()
    cases.run(config, grow=True)
    assert not set(served_list.server.hits) & {"/002.png", "/006.png"}
    assert reasons(run)["taken_down"] == 6
    assert verify.main([str(run), "--deep"]) == 0
    cases.run(config, retry=True)
    assert reasons(run)["taken_down"] == 6
