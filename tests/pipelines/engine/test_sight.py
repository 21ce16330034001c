"""What a job says of itself while it works, and that it costs the job nothing."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.engine import sight as engine_sight
from pipelines.engine.config import EngineConfig
from pipelines.engine.metrics import RayMetrics
from pipelines.engine.progress import Progress
from pipelines.engine.session import open_session
from pipelines.engine.sight import Sight, SightWriter
from pipelines.report.sight import sight_lines
from pipelines.report.status import status_of
from pipelines.run.lease import Lease
from pipelines.run.manifest import FileEntry, Manifest
from pipelines.run.sight import SIGHT_FILE, JobSight, StepSight, WorkersSight, read_sight
from pipelines.run.store import RunStore
from tests.pipelines.engine.toy_step import ToyStep


def manifest(shard_id: int) -> Manifest:
    files = (FileEntry(path="toy/x", sha256="", num_bytes=1000, num_rows=10),)
    return Manifest(
        step="toy", fingerprint="f0", shard_id=shard_id, files=files, rows_in=10, kept=10
    )


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_pace_counts_neither_the_start_nor_what_was_long_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(say=lambda line: None)
    progress.start("toy", shards_total=1000, shards_done=100)
    assert progress.steps()[0].left_s is None
    clock.now += 600  # models are fetched
    progress.ready("toy")
    for shard_id in range(50):
        clock.now += 2
        progress.add(manifest(shard_id))
    (step,) = progress.steps()
    assert (step.done, step.rows, step.kept) == (150, 500, 500)
    assert (step.rows_per_s, step.bytes_per_s, step.left_s) == (5.0, 500, 850 * 2)
    for shard_id in range(50, 100):  # half as fast
        clock.now += 8
        progress.add(manifest(shard_id))
    assert progress.steps()[0].left_s == 800 * 8
    clock.now += 300  # and now nothing
    assert (progress.steps()[0].left_s or 0) > 800 * 12


def test_where_nobody_says_when_it_was_ready_the_pace_begins_with_the_first_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    progress = Progress(say=lambda line: None)
    progress.start("toy", shards_total=10, shards_done=0)
    clock.now += 600
    for shard_id in range(3):
        progress.add(manifest(shard_id))
        clock.now += 4
    assert progress.steps()[0].left_s == 7 * 6  # 2 shards in 12 s, the last 4 of them without one


def test_a_job_at_work_is_seen_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_sight, "_WRITE_EVERY_S", 0.05)
    store = RunStore(str(tmp_path))
    seen: list[JobSight] = []

    class Watched(ToyStep):
        def run(self, shard_id: int) -> Manifest:
            if shard_id == 2:
                wait_for(lambda: (found := read_sight(store)) and found.steps[0].done == 2)
                seen.append(status_of(store).now or pytest.fail("the status has nothing of it"))
            return super().run(shard_id)

    config = EngineConfig(runner="local", patience_s=0, shard_tries=1)
    with open_session(store, config, say=lambda line: None) as session:
        session.run([Watched(store, fail=(0,))], num_shards=4)
    (sight,) = seen
    (step,) = sight.steps
    assert (step.step, step.shards, step.done, step.rows, step.kept) == ("toy", 4, 2, 20, 10)
    assert "poison in shard 0" in sight.errors[0]
    assert not store.exists(SIGHT_FILE)


@pytest.mark.ray
def test_on_ray_workers_are_seen_by_node_with_how_busy_they_are(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[str, float, float]] = []

    def worked(self: RayMetrics, step: str, node: str, gpu: str, **seconds: float) -> None:
        counted.append((f"{step} {node} {gpu}", seconds["busy_s"], seconds["wait_s"]))

    monkeypatch.setattr(engine_sight, "_WRITE_EVERY_S", 0.2)
    monkeypatch.setattr(engine_sight, "_LOOK_EVERY_S", 0.2)
    monkeypatch.setattr(RayMetrics, "worked", worked)
    store, seen = RunStore(str(tmp_path)), []

    def say(line: str) -> None:
        if line.startswith("toy:") and (found := read_sight(store)) is not None:
            seen.append(found)

    config = EngineConfig(gpus=1, shard_tries=1)
    with open_session(store, config, say=say) as session:
        session.progress = session.sight._progress = Progress(say=say, every_s=0.0)
        step = ToyStep(store, resources=session.model_resources, pause_s=0.4, fail=(1,))
        session.run([step], num_shards=6)
    host = socket.gethostname()
    workers = seen[-1].steps[0].workers
    assert workers is not None
    assert workers.by_node == {host: 1}
    assert workers.busy is not None
    assert workers.busy > 0.5
    assert "poison in shard 1" in seen[-1].errors[0]
    assert {name for name, *_ in counted} <= {f"toy {host} 0", f"toy {host} 1"}
    assert 0.5 < sum(busy for _, busy, _ in counted) < 20


class SickStore(RunStore):
    """Takes nothing, and loses nothing."""

    def replace(self, path: str, content: bytes) -> None:
        raise OSError("sick")


def test_a_store_that_takes_nothing_ends_no_job_and_is_tried_again(tmp_path: Path) -> None:
    sick, looks = SickStore(str(tmp_path)), []
    sight = Sight(Progress(say=lambda line: None))
    lease = Lease(RunStore(str(tmp_path)), say=print)

    def look() -> JobSight:
        looks.append(1)
        return sight.look()

    with lease, SightWriter(sick, lease, look, every_s=0.01):
        wait_for(lambda: len(looks) > 2)
    assert read_sight(sick) is None


def test_a_job_that_lost_its_lease_writes_and_removes_nothing_of_its_successor(
    tmp_path: Path,
) -> None:
    store, lease = RunStore(str(tmp_path)), Lease(RunStore(str(tmp_path)), say=print)
    lease.lost = True
    store.replace(SIGHT_FILE, b"another's")
    with SightWriter(store, lease, lambda: pytest.fail("looked"), every_s=0.01):
        time.sleep(0.05)
    assert store.read_bytes(SIGHT_FILE) == b"another's"
    assert not [thread for thread in threading.enumerate() if thread.name == "sight"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"steps": []}', b'{"steps": 3}'])
def test_what_is_no_sight_is_none(tmp_path: Path, content: bytes) -> None:
    store = RunStore(str(tmp_path))
    assert read_sight(store) is None
    store.replace(SIGHT_FILE, content)
    assert read_sight(store) is None


def test_the_lines_say_pace_workers_by_node_what_is_waited_for_and_errors() -> None:
    workers = WorkersSight(
        by_node={"node-a": 2, "node-b": 6}, pending=4, busy=0.25, starved=0.75, queued=3
    )
    download = StepSight(
        step="download",
        shards=1000,
        done=40,
        rows=400,
        kept=300,
        rows_per_s=5.5,
        bytes_per_s=2e6,
        left_s=3661,
        workers=workers,
    )
    sight = JobSight(
        host="h",
        pid=1,
        written=time.time() - 4,
        running_s=75,
        steps=(download, StepSight(step="score", shards=1000, done=0)),
        waits_for="1 worker of score, 1 GPU each",
        errors=("score shard 3: gone",),
    )
    said = "\n".join(sight_lines(sight))
    for part in (
        "at work for 0:01:15, as the job said 4 s ago",
        "40 of 1,000 shards, 400 rows, 75.0% kept, 5.5 rows/s, 2.0 MB/s, 1:01:01 left",
        "8 worker(s): node-b 6, node-a 2; 4 without a place; busy 25%, starved 75%;",
        "score       0 of 1,000 shards, nothing committed yet",
        "waits for: 1 worker of score",
        "  score shard 3: gone",
    ):
        assert part in said
