"""Kill anything, run the same command again: the same bytes as an unharmed run."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.run.store import RunStore
from pipelines.workflows.curate_config import CurateConfig
from tests.contracts import cases
from tests.contracts.cases import ServedList

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def on_ray(served_list: ServedList, output: Path, **options: object) -> CurateConfig:
    return cases.configuration(
        served_list.path, output, engine__runner="ray", engine__gpus=0, **options
    )


def workers(title: str) -> list[int]:
    """Pids of this session's Ray workers with that title; other Rays of the machine have them too.

    A worker is a child of the raylet, which is a child of this process.
    """
    ours = os.getpid()
    found = [pid for pid, line in titles().items() if title in line]
    return [pid for pid in found if parent(parent(pid)) == ours]


def titles() -> dict[int, str]:
    """The command line or title of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = line.decode("utf-8", "replace")
    return found


def parent(pid: int) -> int:
    """The parent's pid; 0 where the process has ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def kill_when(ready: Callable[[], bool], pids: Callable[[], list[int]]) -> threading.Thread:
    """Kill -9 the first process that `pids` finds once `ready` holds; join to be sure it did."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if ready():
                victims = pids()
                if victims:
                    os.kill(victims[0], signal.SIGKILL)
                    killed.append(victims[0])
                    return
            time.sleep(0.02)

    killed: list[int] = []
    thread = threading.Thread(target=watch)
    thread.killed = killed  # type: ignore[attr-defined]
    thread.start()
    return thread


def test_local_and_ray_runs_are_byte_identical_whatever_the_number_of_workers(
    ray_cluster: None, served_list: ServedList, unharmed_run: Path, tmp_path: Path
) -> None:
    cases.run(
        on_ray(served_list, tmp_path, engine__download_workers=2, engine__cpu_model_workers=2)
    )
    assert cases.data_files(tmp_path) == cases.data_files(unharmed_run)


@pytest.mark.parametrize("victim", ["download", "score", "encode"])
def test_a_killed_worker_changes_no_byte(
    ray_cluster: None, served_list: ServedList, unharmed_run: Path, tmp_path: Path, victim: str
) -> None:
    store = RunStore(str(tmp_path))
    worker = f"ray::{victim.capitalize()}Worker"

    def ready() -> bool:
        manifests = tmp_path / "_work/manifests" / victim
        return manifests.exists() and any(manifests.glob("*/*.json"))

    killer = kill_when(ready, lambda: workers(worker))
    _, said = cases.run(on_ray(served_list, tmp_path))
    killer.join()
    assert killer.killed, f"no {worker} process was found"  # type: ignore[attr-defined]
    assert store.exists("revision.json")
    assert cases.data_files(tmp_path) == cases.data_files(unharmed_run), said


def test_a_killed_driver_is_resumed_by_the_same_command_to_the_same_bytes(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = cases.configuration(served_list.path, output)
    path = tmp_path / "curate.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, str(cases.ROOT / "jobs/curate.py"), "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(cases.ROOT), "RAY_TMPDIR": "/tmp"}
    for folder in ("download", "encode"):
        process = subprocess.Popen(
            [*command, "--set", "engine.runner=ray"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        manifests = output / "_work/manifests" / folder
        while process.poll() is None and not any(manifests.glob("*/*.json")):
            time.sleep(0.02)
        process.kill()
        process.wait()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every row is accounted for" in done.stdout
    assert cases.data_files(output) == cases.data_files(unharmed_run)
