"""The Ray runner's promises, on a local cluster with logical CPUs and GPUs."""

import time
from pathlib import Path

import pytest

from jobs.exit_codes import exit_code_of
from pipelines.engine import lost_workers, ray_faults
from pipelines.engine.chain import EngineError, ResourcesError
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.run.manifest import committed_shards, read_manifest
from pipelines.run.store import RunStore
from pipelines.steps.step import Resources
from sd_core.errors import ExitCode, FoundryError
from tests.pipelines.engine.toy_step import ToyStep

pytestmark = pytest.mark.ray
RAY = EngineConfig(runner="ray", gpus=0, patience_s=0)
LOCAL = EngineConfig(runner="local", patience_s=0)


def run(
    store: RunStore, steps: list[ToyStep], *, num_shards: int, config: EngineConfig = RAY
) -> list[str]:
    said: list[str] = []
    with open_session(store, config, say=said.append) as session:
        session.run(steps, num_shards=num_shards)
    return said


def data_files(store: RunStore, folder: str = "toy") -> dict[str, bytes]:
    return {name: store.read_bytes(f"{folder}/{name}") for name in store.list_files(folder)}


def test_ray_and_local_commit_the_same_files(ray_cluster: None, tmp_path: Path) -> None:
    on_ray, local = RunStore(str(tmp_path / "ray")), RunStore(str(tmp_path / "local"))
    run(on_ray, [ToyStep(on_ray)], num_shards=5)
    run(local, [ToyStep(local)], num_shards=5, config=LOCAL)
    assert data_files(on_ray) == data_files(local)
    assert committed_shards(on_ray, "toy", "f0") == set(range(5))
    for shard_id in range(5):
        assert read_manifest(on_ray, "toy", "f0", shard_id) == read_manifest(
            local, "toy", "f0", shard_id
        )


def test_a_killed_worker_loses_nothing_and_charges_no_try(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    config = EngineConfig(runner="ray", gpus=0, shard_tries=1)
    said = run(store, [ToyStep(store, die_once=(1, 2))], num_shards=6, config=config)
    assert committed_shards(store, "toy", "f0") == set(range(6))
    assert len(data_files(store)) == 6
    assert not [line for line in said if "quarantined" in line]
    assert [line for line in said if "worker lost" in line]


@pytest.mark.parametrize("lives", [True, False])
def test_a_death_on_a_living_node_counts_and_one_with_its_node_never(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    living = ray_faults.living_ids()
    monkeypatch.setattr(ray_faults, "living_ids", lambda: living if lives else set())
    monkeypatch.setattr(lost_workers, "_JUDGED_AFTER_S", 0.1)
    store = RunStore(str(tmp_path))
    config = EngineConfig(runner="ray", gpus=0, infrastructure_tries=1)
    said = run(store, [ToyStep(store, die_once=(1,))], num_shards=3, config=config)
    manifest = read_manifest(store, "toy", "f0", 1)
    assert manifest is not None
    assert (manifest.quarantined is not None) is lives
    assert lives or [line for line in said if "shard 1: its node was lost" in line]


def test_a_cluster_that_starts_no_worker_ends_the_job(ray_cluster: None, tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    step = ToyStep(store, resources=Resources(num_cpus=64))
    config = EngineConfig(gpus=0, wait_for_resources_s=1)
    with pytest.raises(ResourcesError, match=r"waited 0:00:01 in vain for .*\(4 free\)"):
        run(store, [step], num_shards=1, config=config)


def test_a_poison_shard_is_quarantined_after_its_tries_and_the_rest_go_on(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    config = EngineConfig(runner="ray", gpus=0, shard_tries=2)
    said = run(store, [ToyStep(store, fail=(1,))], num_shards=4, config=config)
    manifest = read_manifest(store, "toy", "f0", 1)
    assert manifest is not None
    assert manifest.quarantined is not None
    assert "poison in shard 1" in manifest.quarantined
    assert dict(manifest.dropped) == {"shard_quarantined": 10}
    assert len([n for n in store.list_files("attempts") if n.startswith("toy-1-")]) == 2
    assert len(data_files(store)) == 3
    assert [line for line in said if "try 1 of 2" in line and "poison" in line]


def test_shards_flow_to_the_next_step_before_the_first_has_ended(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    one = Resources(num_workers=1)
    steps = [
        ToyStep(store, name="download", resources=one, pause_s=0.5),
        ToyStep(store, name="score", resources=one),
    ]
    run(store, steps, num_shards=6)
    attempts = {
        tuple(name.split("-")[:2]): int(name.split("-")[2]) for name in store.list_files("attempts")
    }
    assert attempts["score", "0"] < attempts["download", "4"]


def test_a_worker_that_cannot_start_fails_the_job_with_its_own_words(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    with pytest.raises(EngineError, match="could not start: ValueError: no weights here"):
        run(store, [ToyStep(store, fail_to_open="no weights here")], num_shards=1)


@pytest.mark.parametrize("config", [RAY, LOCAL], ids=["ray", "local"])
def test_a_full_disk_under_a_workers_own_error_is_the_environments_and_no_shards_fault(
    ray_cluster: None, tmp_path: Path, config: EngineConfig
) -> None:
    store = RunStore(str(tmp_path))
    with pytest.raises(FoundryError, match="shard 1 is cut off") as caught:
        run(store, [ToyStep(store, disk_full=(1,))], num_shards=3, config=config)
    assert exit_code_of(caught.value) == ExitCode.ENVIRONMENT
    assert read_manifest(store, "toy", "f0", 1) is None
    run(store, [ToyStep(store)], num_shards=3, config=config)
    assert committed_shards(store, "toy", "f0") == {0, 1, 2}


@pytest.mark.parametrize("config", [RAY, LOCAL], ids=["ray", "local"])
def test_a_full_disk_while_a_worker_starts_is_the_environments(
    ray_cluster: None, tmp_path: Path, config: EngineConfig
) -> None:
    store = RunStore(str(tmp_path))
    with pytest.raises(FoundryError, match="weights are cut off") as caught:
        run(store, [ToyStep(store, disk_full_to_open=True)], num_shards=1, config=config)
    assert exit_code_of(caught.value) == ExitCode.ENVIRONMENT


def test_two_model_workers_on_two_gpus_see_different_ones(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    config = EngineConfig(runner="ray", gpus=2)
    with open_session(store, config, say=lambda line: None) as session:
        assert session.model_resources == Resources(num_gpus=1.0, num_workers=2, min_workers=2)
        step = ToyStep(store, resources=session.model_resources, pause_s=0.2)
        session.run([step], num_shards=6)
    seen = {content.split()[1] for content in data_files(store, "opened").values()}
    assert seen == {b"0", b"1"}


def test_more_gpus_than_there_are_is_refused_within_seconds(
    ray_cluster: None, tmp_path: Path
) -> None:
    store = RunStore(str(tmp_path))
    config = EngineConfig(runner="ray", gpus=3)
    started = time.monotonic()
    with (
        pytest.raises(EngineError, match=r"asks for 3 GPU\(s\), and the cluster has 2"),
        open_session(store, config, say=lambda line: None),
    ):
        pass
    assert time.monotonic() - started < 30


def test_a_cluster_too_small_for_the_job_is_refused_with_the_sum(
    ray_cluster: None, tmp_path: Path
) -> None:
    config = EngineConfig(runner="ray", gpus=0, download_workers=64)
    with (
        pytest.raises(EngineError, match="the job needs 65 CPU"),
        open_session(RunStore(str(tmp_path)), config, say=lambda line: None),
    ):
        pass
