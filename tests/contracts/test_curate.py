"""Promises of a whole curate run, kept by the local runner."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import ConfigError
from pipelines.plan import PlanError
from pipelines.rows.ledger import REASONS
from pipelines.run.record import RunMismatchError, read_revision
from pipelines.run.store import RunStore
from pipelines.workflows.curate import curate
from tests.contracts import cases
from tests.contracts.cases import ServedList
from tests.run_cases import committed_files

pytestmark = pytest.mark.slow


def read_ledger(run: Path) -> pa.Table:
    paths = committed_files(run, "ledger")
    return pa.concat_tables(pq.read_table(path) for path in paths)


def test_every_row_is_in_the_ledger_once_with_one_reason(unharmed_run: Path) -> None:
    ledger = read_ledger(unharmed_run)
    assert ledger.num_rows == cases.NUM_ROWS
    assert len(set(zip(*ledger.select(["shard_id", "row"]).to_pydict().values(), strict=True))) == (
        cases.NUM_ROWS
    )
    for kept, reason in zip(ledger["kept"].to_pylist(), ledger["reason"].to_pylist(), strict=True):
        assert kept == (reason is None)
        assert reason is None or reason in REASONS
    reasons = ledger["reason"].to_pylist()
    for reason in ("http_not_found", "http_gone", "opted_out", "address_refused", "duplicate_row"):
        assert reasons.count(reason) == 1, reason
    # Where the flawed original itself was dropped, its copy is judged alike.
    assert reasons.count("duplicate_bytes") >= 4


def test_counts_add_up_from_the_list_to_the_latents(unharmed_run: Path) -> None:
    steps = read_revision(RunStore(str(unharmed_run))).steps
    assert steps["download"].rows_in == steps["select"].rows_in == cases.NUM_ROWS
    assert steps["score"].rows_in == steps["download"].kept
    assert steps["encode"].rows_in == steps["select"].kept
    assert 10 < steps["encode"].kept < 48


def test_the_lists_own_columns_pass_through(unharmed_run: Path) -> None:
    ledger = read_ledger(unharmed_run)
    assert set(ledger["source_licence"].to_pylist()) == {"CC0"}


def test_a_finished_run_repeated_does_nothing_and_says_so(
    served_list: ServedList, unharmed_run: Path
) -> None:
    before = cases.data_files(unharmed_run)
    hits = dict(served_list.server.hits)
    result, said = cases.run(cases.configuration(served_list.path, unharmed_run))
    assert said == ["nothing to do: every asked step is complete"]
    assert "every row is accounted for" in result.funnel
    assert cases.data_files(unharmed_run) == before
    assert dict(served_list.server.hits) == hits


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("image__size", 128, "download.image.size: was 64, is now 128"),
        ("engine__torch_threads", 2, "torch_threads"),
        ("select__rules__1__min", 0.99, "clip_similarity"),
        ("plan__rows_per_shard", 11, "rows_per_shard"),
    ],
)
def test_a_changed_result_changing_option_is_refused_and_named(
    served_list: ServedList, unharmed_run: Path, option: str, value: object, named: str
) -> None:
    config = cases.configuration(served_list.path, unharmed_run, **{option: value})
    with pytest.raises((RunMismatchError, PlanError), match=named):
        cases.run(config)


def test_an_option_that_changes_no_result_is_not_refused(
    served_list: ServedList, unharmed_run: Path
) -> None:
    config = cases.configuration(served_list.path, unharmed_run, download__threads=3)
    _, said = cases.run(config)
    assert said == ["nothing to do: every asked step is complete"]


def test_a_changed_input_is_refused_and_named(tmp_path: Path, served_list: ServedList) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(served_list.path.read_bytes())
    config = cases.configuration(path, tmp_path / "run", download__retries=0)
    curate(config, steps=("download",), say=lambda line: None)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    with pytest.raises(PlanError, match=r"list\.parquet"):
        cases.run(config)


def test_select_alone_recuts_as_a_new_revision_that_equals_a_fresh_run(
    served_list: ServedList, tmp_path: Path
) -> None:
    recut, fresh = tmp_path / "recut", tmp_path / "fresh"
    cases.run(cases.configuration(served_list.path, recut))
    first = read_revision(RunStore(str(recut)))
    threshold = {"select__rules__0__min": 7.5}
    changed = cases.configuration(served_list.path, recut, **threshold)
    cases.run(changed, steps=("select",))
    after_select = read_revision(RunStore(str(recut)))
    assert after_select.number == first.number + 2, "select, and publish with it"
    assert "encode" not in after_select.steps
    assert after_select.steps["select"].kept < first.steps["select"].kept
    hits = dict(served_list.server.hits)
    cases.run(changed)
    assert dict(served_list.server.hits) == hits
    cases.run(cases.configuration(served_list.path, fresh, **threshold))
    for folder in ("ledger", "latents"):
        now, whole = (committed_files(run, folder) for run in (recut, fresh))
        assert [path.name for path in now] == [path.name for path in whole]


def test_no_secret_of_the_list_or_the_configuration_is_stored(
    served_list: ServedList, tmp_path: Path
) -> None:
    table = pq.read_table(served_list.path).slice(0, 3)
    urls = [
        url.replace("http://", "http://user:hunter2@") + "?X-Amz-Signature=hunter2"
        for url in table["URL"].to_pylist()
    ]
    table = table.set_column(0, "URL", pa.array(urls)).append_column(
        "page", pa.array(["see http://me:hunter2@example.org/"] * 3)
    )
    path = tmp_path / "list.parquet"
    pq.write_table(table, path)
    output = tmp_path / "run"
    config = cases.configuration(path, output, source__storage_options="{}")
    _, said = cases.run(config)
    assert sum(read_ledger(output)["status"].to_numpy(zero_copy_only=False) == "success") == 3
    assert "hunter2" not in "\n".join(said)
    for file in output.rglob("*"):
        if file.suffix == ".parquet":
            assert "hunter2" not in str(pq.read_table(file).to_pylist()), file
        elif file.is_file():
            assert b"hunter2" not in file.read_bytes(), file


def test_steps_are_checked_before_anything_runs(served_list: ServedList, tmp_path: Path) -> None:
    config = cases.configuration(served_list.path, tmp_path / "run")
    with pytest.raises(ConfigError, match="allowed: download, score, select, publish, encode"):
        cases.run(config, steps=("downlod",))
    with pytest.raises(ConfigError, match="download is not complete; run it first"):
        cases.run(config, steps=("select",))
