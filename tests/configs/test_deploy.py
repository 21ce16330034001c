"""The manifests are what Kubernetes accepts, and their commands are what the job understands."""

import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs.generate import _parse
from pipelines.config import load_config
from pipelines.generate import GenerateJobConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "configs/deploy"
KUBERNETES = "1.37"


def manifest(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return tree


def ray_job(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]
    return spec.get("jobTemplate", spec)


def commands() -> dict[str, list[str]]:
    line = (DEPLOY / "crontab").read_text().splitlines()[-1]
    pod = manifest("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    found = {
        "crontab": shlex.split(line[line.index("jobs/generate.py") : line.index(">>")]),
        "cronjob.yaml": pod["containers"][0]["command"][1:],
    }
    for name in ("rayjob.yaml", "raycronjob.yaml"):
        found[name] = shlex.split(ray_job(name)["entrypoint"])[1:]
    return found


def test_the_cron_job_is_one_by_kubernetes_own_schema() -> None:
    kubernetes_validate.validate(manifest("cronjob.yaml"), KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycronjob.yaml"])
def test_the_pods_of_ray_jobs_are_ones_by_kubernetes_own_schema(name: str) -> None:
    cluster = ray_job(name)["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert len(groups) == 2
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
        kubernetes_validate.validate({**pod, **group["template"]}, KUBERNETES, strict=True)


def test_ray_is_the_version_of_the_lock_file() -> None:
    locked = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert locked is not None
    for name in ("rayjob.yaml", "raycronjob.yaml"):
        assert ray_job(name)["rayClusterSpec"]["rayVersion"] == locked[1]


def test_both_ray_jobs_do_the_same() -> None:
    assert ray_job("rayjob.yaml") == ray_job("raycronjob.yaml")


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_is_one_that_the_job_understands(name: str) -> None:
    script, *arguments = commands()[name]
    assert (ROOT / script).is_file()
    options = _parse(arguments)
    assert options.grow
    config = load_config(GenerateJobConfig, ROOT / options.config, overrides=options.set)
    assert config.output == "s3://my-bucket/generated"
