"""How far a run is, is told from a few of its files: steps, rows, who is at it, what comes next."""

import json
import os
import shutil
import socket
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from jobs import status
from jobs.bench.s3_emulator import S3Endpoint
from pipelines.rules.tombstones import TOMBSTONES_FILE, tombstones_of, write_tombstones
from pipelines.run.committed import Committed
from pipelines.run.lease import LEASE_FILE, Lease
from pipelines.run.record import read_revision, read_run, write_revision
from pipelines.run.sight import JobSight, TrainingSight, write_sight
from pipelines.run.store import RunStore
from tests.contracts import cases

pytestmark = pytest.mark.slow


def told(run: Path | str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert status.main([str(run), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_complete_run_is_told_as_its_revision_counts_it(
    unharmed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, revision = told(unharmed_run, capsys), read_revision(RunStore(str(unharmed_run)))
    assert found["plan"]["rows"] == cases.NUM_ROWS
    for step in found["steps"]:
        summary = revision.steps[step["step"]]
        assert (step["rows"], step["kept"]) == (summary.rows_in, summary.kept)
        assert (step["dropped"], step["is_complete"]) == (dict(summary.dropped), True)
    assert found["lease"] is None
    assert found["last_activity"].startswith("20")
    assert "nothing to do" in found["next"]
    assert status.main([str(unharmed_run)]) == 0
    said = capsys.readouterr().out
    assert f"{revision.steps['select'].kept} of {cases.NUM_ROWS} rows kept" in said
    assert "1 http_gone" in said


def test_of_a_run_that_was_killed_it_is_told_what_is_done_and_owed_and_by_whom_it_was_held(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    store = RunStore(str(run))
    recorded = read_run(store)["steps"]
    done = Committed(store, "download", recorded["download"]["fingerprint"])
    write_revision(store, 0, {})
    for name in ("score", "select", "encode"):
        made = Committed(store, name, recorded[name]["fingerprint"])
        shutil.rmtree(store.absolute(made.folder))
    store.delete(f"{done.folder}/000001.json")
    left = [done.manifest(shard_id) for shard_id in sorted(done.shards())]

    found = told(run, capsys)
    shards = found["plan"]["shards"]
    download = found["steps"][0]
    assert (download["done"], download["shards"], download["counted"]) == (len(left), shards, 5)
    assert download["kept"] == sum(manifest.kept for manifest in left)
    assert found["next"].startswith(f"goes on; shards owed: download (1 of {shards}), score")
    sight = JobSight(
        host=socket.gethostname(), pid=os.getpid(), written=1.0, running_s=7.0, errors=("gone",)
    )
    with Lease(store, say=print):
        write_sight(store, replace(sight, pid=1))  # another job's that was killed
        assert told(run, capsys)["now"] is None
        write_sight(store, sight)
        held = told(run, capsys)
        holder = json.loads(store.read_bytes(LEASE_FILE))
    assert (held["lease"]["pid"], held["lease"]["is_alive"]) == (os.getpid(), True)
    assert (held["now"]["running_s"], held["now"]["errors"]) == (7.0, ["gone"])
    assert "ends with 75" in held["next"]
    store.replace(LEASE_FILE, json.dumps({**holder, "heartbeat": 1.0}).encode())
    gone = told(run, capsys)
    assert not gone["lease"]["is_alive"]
    assert gone["now"] is None
    assert gone["next"] == found["next"]


def test_watching_shows_a_run_again_until_no_job_is_at_it(
    unharmed_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    lease = Lease(RunStore(str(run)), say=print)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            lease.__exit__()

    with lease:
        monkeypatch.setattr(status, "time", SimpleNamespace(sleep=sleep))
        assert status.main([str(run), "--watch"]) == 0
    said = capsys.readouterr().out
    assert waits == [10.0, 10.0]
    assert (said.count("at work; heartbeat"), said.count("held by: nobody")) == (2, 1)
    assert status.main([str(run), "--watch", "--json"]) == 0
    assert len(waits) == 2


def test_a_stopped_takedown_and_what_a_retry_would_make_again_are_told(
    unharmed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(unharmed_run, tmp_path / "run"))
    store = RunStore(str(run))
    steps = read_revision(store).steps
    passing = {**steps["download"].dropped, "http_server_error": 2}
    steps = {
        **steps,
        "download": replace(steps["download"], dropped=passing),
        "encode": replace(steps["encode"], quarantined=(3,)),
    }
    write_revision(store, 9, steps)
    makes_again = "with --retry it makes again: http_server_error 2, 1 shard(s) of encode"
    assert told(run, capsys)["next"].endswith(makes_again)
    write_tombstones(store, tombstones_of(urls=["https://example.org/a.jpg"]))
    assert told(run, capsys)["next"].startswith("finishes the takedown that was stopped")
    assert store.exists(TOMBSTONES_FILE)


def test_a_training_is_told_by_its_newest_checkpoint_and_last_figures(
    unharmed_training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(unharmed_training, capsys)
    assert (found["steps"], found["checkpoint"], found["is_complete"]) == (20, 20, True)
    assert found["metrics"]["step"] == 20
    begun = Path(shutil.copytree(unharmed_training, tmp_path / "out"))
    (begun / "result.json").unlink()
    assert told(begun, capsys)["next"] == "goes on from step 20"
    assert status.main([str(begun)]) == 0
    assert "newest checkpoint: step 20" in capsys.readouterr().out
    sight = TrainingSight(
        step=8, steps=20, losses={"loss": 0.5}, samples_per_s=2.0, left_s=48.0, by_node={"a": 2}
    )
    job = JobSight(
        host=socket.gethostname(), pid=os.getpid(), written=1.0, running_s=7.0, training=sight
    )
    store = RunStore(str(begun), flat=True)
    with Lease(store, say=print):
        write_sight(store, job)
        assert told(begun, capsys)["now"]["training"] == asdict(sight)
        assert status.main([str(begun)]) == 0
    said = capsys.readouterr().out
    assert "step 8 of 20, loss 0.5000, 2.0 images/s, 0:00:48 left; 2 worker(s): a 2" in said


def test_a_run_on_s3_is_told_as_well_and_what_is_none_is_refused(
    unharmed_run: Path, s3_endpoint: S3Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = f"{s3_endpoint.bucket}/status"
    fsspec.filesystem("s3").put(f"{unharmed_run}/", there, recursive=True)
    local = told(unharmed_run, capsys)
    remote = told(f"s3://{there}", capsys)
    assert [remote[name] for name in ("plan", "steps", "next")] == [
        local[name] for name in ("plan", "steps", "next")
    ]
    assert status.main([str(tmp_path)]) == 2
    assert "not a run" in capsys.readouterr().err
