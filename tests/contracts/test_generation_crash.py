"""Kill -9 of a worker and of the driver, run again: the bytes of an unharmed generation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.contracts import generation_cases as cases
from tests.contracts.test_crash import kill_when, workers

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    return cases.write_prompts(folder / "prompts.parquet", cases.prompts(40))


@pytest.fixture(scope="module")
def unharmed(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unharmed-generation")
    cases.run(cases.configuration(prompts, output))
    return output


def test_two_workers_and_a_killed_one_change_no_byte(
    ray_cluster: None, prompts: Path, unharmed: Path, tmp_path: Path
) -> None:
    manifests = tmp_path / "_work/manifests/generate"
    killer = kill_when(
        lambda: manifests.exists() and any(manifests.glob("*/0*.json")),
        lambda: workers("ray::GenerateWorker"),
    )
    options = {"engine__runner": "ray", "engine__gpus": 0, "engine__cpu_model_workers": 2}
    cases.run(cases.configuration(prompts, tmp_path, **options))
    killer.join()
    assert killer.killed, "no worker was found"  # type: ignore[attr-defined]
    assert cases.digests(tmp_path) == cases.digests(unharmed)


def test_a_killed_driver_is_resumed_by_the_same_command(
    prompts: Path, unharmed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    path = tmp_path / "generate.yaml"
    path.write_text(yaml.safe_dump(cases.configuration(prompts, output).model_dump(mode="json")))
    command = [sys.executable, str(cases.ROOT / "jobs/generate.py"), "--config", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(cases.ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=-3, stderr=-3)
    manifests = output / "_work/manifests/generate"
    while process.poll() is None and not any(manifests.glob("*/0*.json")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every row is accounted for" in done.stdout
    assert cases.digests(output) == cases.digests(unharmed)
