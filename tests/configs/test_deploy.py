"""The manifests are what Kubernetes accepts, and their commands are what the job understands."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from jobs import curate, generate, train
from jobs.exit_codes import ExitCode
from pipelines.config import load_config
from pipelines.training.job import load_train_config
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.generate_config import GenerateJobConfig

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "configs/deploy"
KUBERNETES = "1.37"
NIGHTLY = ("rayjob.yaml", "raycronjob.yaml")
RAY_JOBS = (*NIGHTLY, "rayjob-curate.yaml", "rayjob-train.yaml")
NIGHT_S = 24 * 3600


def manifest(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return tree


def ray_job(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]
    return spec.get("jobTemplate", spec)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template of the folder, by the name of its container."""
    templates = [manifest("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]]
    for name in RAY_JOBS:
        cluster = ray_job(name)["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        templates += [group["template"] for group in groups]
        templates.append(ray_job(name)["submitterPodTemplate"])
    assert len(templates) == 1 + 3 * 3 + 4
    for template in templates:
        yield template["spec"]["containers"][0]["name"], template


def cron_line() -> str:
    return (DEPLOY / "crontab").read_text().splitlines()[-1]


def commands() -> dict[str, list[str]]:
    line = cron_line()
    pod = manifest("cronjob.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    found = {
        "crontab": shlex.split(line[line.index("jobs/generate.py") : line.index(">>")]),
        "cronjob.yaml": pod["containers"][0]["args"][1:],
    }
    for name in RAY_JOBS:
        found[name] = shlex.split(ray_job(name)["entrypoint"])[1:]
    return found


@pytest.mark.parametrize("name", ["cronjob.yaml", "serviceaccount.yaml"])
def test_the_cron_job_is_one_by_kubernetes_own_schema(name: str) -> None:
    kubernetes_validate.validate(manifest(name), KUBERNETES, strict=True)


def test_that_schema_refuses_a_misspelt_key() -> None:
    tree = manifest("cronjob.yaml")
    tree["spec"]["concurencyPolicy"] = tree["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        kubernetes_validate.validate(tree, KUBERNETES, strict=True)


def test_every_pod_is_one_by_kubernetes_own_schema() -> None:
    for _, template in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
        kubernetes_validate.validate({**pod, **template}, KUBERNETES, strict=True)


def test_ray_jobs_are_of_kuberays_kinds() -> None:
    for name in RAY_JOBS:
        kind = "RayCronJob" if name == "raycronjob.yaml" else "RayJob"
        assert (manifest(name)["apiVersion"], manifest(name)["kind"]) == ("ray.io/v1", kind)
    # KubeRay adds the minute to the name, and the parts of a cluster to that.
    assert len(manifest("raycronjob.yaml")["metadata"]["name"]) <= 36


def test_ray_is_the_version_of_the_lock_file() -> None:
    locked = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert locked is not None
    for name in RAY_JOBS:
        assert ray_job(name)["rayClusterSpec"]["rayVersion"] == locked[1]


def test_both_ray_jobs_do_the_same_but_for_what_is_deleted_when() -> None:
    once, nightly = (ray_job(name) for name in NIGHTLY)
    cleanup = {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "deletionStrategy"}
    assert {key for key in once.keys() | nightly.keys() if once.get(key) != nightly.get(key)} == (
        cleanup
    )


@pytest.mark.parametrize("name", sorted({"crontab", "cronjob.yaml", *NIGHTLY}))
def test_every_nightly_command_is_one_that_the_job_understands(name: str) -> None:
    script, *arguments = commands()[name]
    assert (ROOT / script).is_file()
    options = generate.make_parser().parse_args(arguments)
    assert options.grow
    config = load_config(GenerateJobConfig, ROOT / options.config, overrides=options.set)
    assert config.output == "s3://my-bucket/generated"


def test_a_pod_without_its_gpu_is_an_error_and_not_a_slow_night() -> None:
    expected = {"cronjob.yaml": 1}
    for name in NIGHTLY:
        expected[name] = gpus_of(name)
    for name, gpus in expected.items():
        options = generate.make_parser().parse_args(commands()[name][1:])
        config = load_config(GenerateJobConfig, ROOT / options.config, overrides=options.set)
        assert config.engine.gpus == gpus


def gpus_of(name: str) -> int:
    """Of a cluster whose one group of workers is of a fixed size."""
    (group,) = ray_job(name)["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(group["replicas"] * limits["nvidia.com/gpu"])


def test_curate_asks_for_what_its_groups_may_become() -> None:
    script, *arguments = commands()["rayjob-curate.yaml"]
    assert (ROOT / script).is_file()
    options = curate.make_parser().parse_args(arguments)
    config = load_config(CurateConfig, ROOT / options.config, overrides=options.set)
    cluster = ray_job("rayjob-curate.yaml")["rayClusterSpec"]
    download, gpu = cluster["workerGroupSpecs"]
    cpus, gpus = (
        group["maxReplicas"]
        * int(group["template"]["spec"]["containers"][0]["resources"]["limits"][resource])
        for group, resource in ((download, "cpu"), (gpu, "nvidia.com/gpu"))
    )
    assert cluster["enableInTreeAutoscaling"]
    assert (download["minReplicas"], gpu["minReplicas"]) == (1, 0)
    assert config.engine.download_workers == cpus
    assert config.engine.model_dump()["gpus"] == {"min": 1, "max": gpus}


def test_the_autoscaler_alone_has_a_token_of_kubernetes() -> None:
    cluster = ray_job("rayjob-curate.yaml")["rayClusterSpec"]
    mounts = cluster["autoscalerOptions"]["volumeMounts"]
    volumes = cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    (token,) = (volume["name"] for volume in volumes if "projected" in volume)
    assert [mount["mountPath"] for mount in mounts if mount["name"] == token] == [
        "/var/run/secrets/kubernetes.io/serviceaccount"
    ]
    assert {mount["name"] for mount in mounts} <= {volume["name"] for volume in volumes}
    for _, template in pods():
        (container,) = template["spec"]["containers"]
        assert token not in {mount["name"] for mount in container["volumeMounts"]}


def test_a_training_has_as_many_workers_as_there_are_gpus() -> None:
    script, *arguments = commands()["rayjob-train.yaml"]
    assert (ROOT / script).is_file()
    options = train.make_parser().parse_args(arguments)
    config = load_train_config(ROOT / options.config, overrides=options.set)
    assert config.engine.use_gpu is True
    assert config.engine.num_workers == gpus_of("rayjob-train.yaml")
    assert config.loop.batch_size % config.engine.num_workers == 0


def test_every_pod_is_bounded_and_has_no_privilege() -> None:
    for name, template in pods():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == manifest("serviceaccount.yaml")["metadata"]["name"]
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        local = [volume["emptyDir"] for volume in spec["volumes"] if "projected" not in volume]
        assert all("sizeLimit" in volume for volume in local)
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == ({"/tmp"} if name == "submitter" else {"/tmp", "/dev/shm"})


def test_no_manifest_holds_a_secret() -> None:
    for name, template in pods():
        (container,) = template["spec"]["containers"]
        assert container["env"] == [{"name": "HOME", "value": "/tmp"}]
        sources = [] if name == "submitter" else [{"secretRef": {"name": "s3-credentials"}}]
        assert container.get("envFrom", []) == sources
    for path in DEPLOY.iterdir():
        assert not re.search(r"(KEY|TOKEN|PASSWORD)\w*=(?!\$\()", path.read_text()), path.name


def test_all_tries_of_a_night_end_before_the_next() -> None:
    cron = manifest("cronjob.yaml")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < NIGHT_S
    for name in NIGHTLY:  # KubeRay counts the deadline anew for each try
        job = ray_job(name)
        assert (1 + job["backoffLimit"]) * job["activeDeadlineSeconds"] < NIGHT_S


def test_what_another_try_cannot_mend_is_not_tried_again() -> None:
    spec = manifest("cronjob.yaml")["spec"]["jobTemplate"]["spec"]
    first = spec["podFailurePolicy"]["rules"][0]
    assert (first["action"], first["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert set(first["onExitCodes"]["values"]) == {
        ExitCode.WRONG_INPUT,
        ExitCode.SHARDS_GIVEN_UP,
        ExitCode.NOTHING_KEPT,
    }
    assert spec["backoffLimit"] > 0  # the others: 1, and 75, 130 and 143, which go on
    assert (
        first["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    )


def test_the_page_says_what_happens_after_each_exit_code() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", (DEPLOY / "README.md").read_text(), re.M)
    assert [int(code) for row in rows for code in row.split(",")] == list(ExitCode)


def test_a_ray_cluster_asks_for_a_token() -> None:
    for name in RAY_JOBS:
        assert ray_job(name)["rayClusterSpec"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("code", [0, 3])
def test_the_cron_line_logs_and_mails_only_a_failure(code: int, tmp_path: Path) -> None:
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$AWS_ACCESS_KEY_ID $*"\nexit {code}\n')
    python.chmod(0o755)
    (tmp_path / "secrets").write_text("AWS_ACCESS_KEY_ID=from-the-file\n")
    settings = {"PROJECT": tmp_path, "SECRETS": tmp_path / "secrets", "LOG": tmp_path / "log"}
    schedule = cron_line().split(maxsplit=5)
    assert schedule[:5] == ["15", "2", "*", "*", "*"]
    assert "%" not in schedule[5]  # cron would end the command there
    done = subprocess.run(
        ["/bin/bash", "-c", schedule[5]],
        env={"PATH": "/usr/bin:/bin", **{name: str(path) for name, path in settings.items()}},
        capture_output=True,
        text=True,
        check=True,
    )
    log = (tmp_path / "log").read_text()
    assert log.startswith("from-the-file jobs/generate.py --config configs/generate/tiny.yaml")
    assert done.stdout.startswith("the nightly generation ended with exit code 3" if code else "")
    assert bool(done.stdout) == bool(code)


def test_the_image_has_what_the_manifests_expect() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = {source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    packages = {pattern.rstrip("*") for pattern in patterns}
    assert packages | {"configs", "constraints.txt", "pyproject.toml"} <= copied
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    user = next(line.split()[1] for line in lines if line.startswith("USER"))
    for _, template in pods():
        assert template["spec"]["securityContext"]["runAsUser"] == int(user)
    found = {path.parent for top in packages for path in (ROOT / top).rglob("__init__.py")}
    assert {path.parent for top in packages for path in (ROOT / top).rglob("*.py")} == found
