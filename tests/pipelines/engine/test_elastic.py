"""On a cluster whose nodes come, go, hang and are shared, a job ends with the bytes of an unharmed
run and a free lease."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from jobs.bench.engine_cluster import Node, add, raylets
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.run.store import RunStore
from tests.pipelines.engine.toy_step import ToyStep

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
THREE = [Node(cpus=2), Node(cpus=2), Node(cpus=2)]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with raylets(getattr(request, "param", THREE)) as cluster:
        yield cluster


@dataclass
class Job:
    """A job on the cluster, as a process of its own."""

    folder: Path
    num_shards: int = 8
    config: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=lambda: [{"pause_s": 0.5}])

    def start(self) -> "Job":
        """Start it."""
        settings = {"config": self.config, "steps": self.steps, "num_shards": self.num_shards}
        module, run = "tests.pipelines.engine.toy_job", str(self.folder / "run")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, run, json.dumps(settings)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def wait_until(self, is_so: Callable[[], bool], *, timeout_s: float = 60) -> None:
        """Wait for something while it runs."""
        ends = time.monotonic() + timeout_s
        while not is_so():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < ends, "it did not come to it"
            time.sleep(0.05)

    def committed(self) -> int:
        """Shards that are."""
        return len(list((self.folder / "run/_work/toy").glob("*.txt")))

    def began(self) -> int:
        """Attempts at shards."""
        return len(list((self.folder / "run").glob("**/attempts/toy-*")))

    def end(self, code: int = 0, *, timeout_s: float = 120) -> str:
        """Wait for its end; returns what it said."""
        said = self.process.communicate(timeout=timeout_s)[0]
        assert self.process.returncode == code, said
        return str(said)

    def check(self) -> None:
        """Raise AssertionError unless it left what an unharmed run leaves."""
        unharmed = RunStore(str(self.folder / "unharmed"))
        config = EngineConfig(runner="local", gpus=0)
        names = [step.get("name", "toy") for step in self.steps]
        with open_session(unharmed, config, say=lambda line: None) as session:
            for name in names:
                session.run([ToyStep(unharmed, name)], num_shards=self.num_shards)
        made = RunStore(str(self.folder / "run"))
        for name in names:
            assert _content(made, name) == _content(unharmed, name)
        assert not made.exists("lease.json")


def _content(store: RunStore, name: str) -> dict[str, bytes]:
    folders = (name, f"manifests/{name}/f0")
    return {
        f"{folder}/{file}": store.read_bytes(f"{folder}/{file}")
        for folder in folders
        for file in store.list_files(folder)
    }


@pytest.mark.long
@pytest.mark.parametrize("cluster", [[Node(cpus=4), Node(cpus=2), Node(cpus=2)]], indirect=True)
def test_a_gpu_node_that_comes_late_is_waited_for_and_used(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = {"gpus": "auto", "cpu_fallback": False}
    job = Job(tmp_path, config=config).start()
    time.sleep(30)
    assert not job.committed()
    add(cluster, Node(cpus=1, gpus=1))
    said = job.end()
    job.check()
    assert "waits for 1 worker(s) of toy, 1 CPU and 1 GPU each" in said
    assert "the cluster has 0 GPU (0 free) and 8 CPU" in said
    opened = [path.read_text().split()[1] for path in tmp_path.glob("run/**/opened/*")]
    assert opened == ["0"]


@pytest.mark.parametrize(
    "workers",
    [{"cpu_model_workers": 6}, pytest.param({"download_workers": "auto"}, marks=pytest.mark.long)],
    ids=["a number", "auto"],
)
def test_a_node_that_is_lost_costs_no_try_and_one_that_joins_works_along(
    cluster: Cluster, tmp_path: Path, workers: dict[str, Any]
) -> None:
    lost = cluster.list_all_nodes()[-1]
    config = {**workers, "infrastructure_tries": 1}
    job = Job(tmp_path, config=config, num_shards=24, steps=[{"pause_s": 1.0}]).start()
    job.wait_until(lambda: job.began() >= 6)
    cluster.remove_node(lost, allow_graceful=False)
    add(cluster, Node(cpus=2))
    said = job.end()
    job.check()
    assert "which costs no try" in said
    assert len(list(tmp_path.glob("run/**/opened/*"))) == 8
    assert "quarantined" not in said


def test_a_worker_that_is_stopped_for_good_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    config = {"cpu_model_workers": 3, "heartbeat_timeout_s": 3}
    job = Job(tmp_path, config=config, steps=[{"freeze_once": [2]}]).start()
    said = job.end()
    job.check()
    assert "shard 2: worker lost, 1 of 20" in said
    assert "no sign of life for 3 s" in said


@pytest.mark.long
@pytest.mark.parametrize("cluster", [[Node(cpus=4)] * 3], indirect=True)
def test_half_of_the_workers_are_killed_while_they_open(cluster: Cluster, tmp_path: Path) -> None:
    config = {"cpu_model_workers": 12}
    job = Job(tmp_path, config=config, num_shards=24, steps=[{"die_opening": 6}]).start()
    said = job.end()
    job.check()
    assert said.count("a worker died while it started") == 6
    assert "try 3 of" not in said


@pytest.mark.long
@pytest.mark.parametrize("cluster", [[Node(cpus=1)] * 3], indirect=True)
def test_of_two_jobs_on_a_full_cluster_both_end_and_the_waiting_one_says_for_what(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = {"cpu_model_workers": 3}
    first = Job(tmp_path / "a", config=config, num_shards=21, steps=[{"pause_s": 6.0}]).start()
    first.wait_until(lambda: first.committed() > 0)
    second = Job(tmp_path / "b", config=config).start()
    first.end()
    said = second.end()
    first.check()
    second.check()
    assert "waits for 1 worker(s) of toy, 1 CPU each: the cluster has" in said
    assert "3 CPU (0 free) on 3 node(s); other jobs there: run (3 workers)" in said


def test_places_are_kept_between_steps_and_a_slow_shard_gets_a_second_attempt(
    cluster: Cluster, tmp_path: Path
) -> None:
    # So long that all workers open it, whichever of them comes first.
    steps = [{"name": "score", "pause_s": 0.5}, {"name": "encode", "slow_once": [15, 18]}]
    config = {"cpu_model_workers": 3}
    job = Job(tmp_path, config=config, num_shards=20, steps=steps).start()
    said = job.end(timeout_s=50)
    job.check()
    for shard in (15, 18):
        assert said.count(f"encode shard {shard}: takes far longer than others") == 1
    pids = {
        name: {path.name.split("-")[1] for path in tmp_path.glob(f"run/**/opened/{name}-*")}
        for name in ("score", "encode")
    }
    assert pids["score"] == pids["encode"]


@pytest.mark.long
def test_a_light_shard_in_hand_is_not_lost_with_a_worker_that_dies_while_it_opens(
    cluster: Cluster, tmp_path: Path
) -> None:
    steps = [{"light": [0, 1, 2, 3], "pause_s": 1.0, "die_opening": 3}]
    job = Job(tmp_path, config={"cpu_model_workers": 3}, steps=steps).start()
    job.end(timeout_s=60)
    job.check()


@pytest.mark.long
def test_the_head_is_killed_and_the_job_given_again_goes_on(tmp_path: Path) -> None:
    steps = [{"pause_s": 1.0}]
    with raylets(THREE) as cluster:
        job = Job(tmp_path, config={"cpu_model_workers": 3}, num_shards=12, steps=steps).start()
        job.wait_until(lambda: job.committed() >= 3)
        cluster.head_node.kill_gcs_server()
        cluster.head_node.kill_raylet()
        job.process.send_signal(signal.SIGKILL)  # Ray ends it a minute later
        job.process.communicate()
    with raylets(THREE):
        job.start().end()
    job.check()


def test_a_stopped_job_ends_in_time_and_the_same_command_goes_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    steps = [{"pause_s": 1.0}]
    job = Job(tmp_path, config={"cpu_model_workers": 3}, num_shards=12, steps=steps).start()
    job.wait_until(lambda: job.committed() >= 3)
    os.kill(job.process.pid, signal.SIGTERM)
    assert "stopped by SIGTERM: the same command goes on" in job.end(143, timeout_s=4)
    assert not list(tmp_path.glob("run/lease.json"))
    job.start().end()
    job.check()
