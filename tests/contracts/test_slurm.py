"""The Slurm script, with stubs of srun and scontrol that start on this machine what is asked."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.contracts import cases
from tests.contracts.cases import ServedList

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "configs/deploy/slurm.sh"
STUBS = {
    "scontrol": 'test "$*" = "show hostnames n[1-2]" && printf "node-1\\nnode-2\\n"',
    # Each node has a folder of Ray's of its own, as on machines of their own.
    "srun": """echo "$*" >>"$CALLS"
while [[ $1 == --* ]]; do shift; done
exec "$@\"""",
    "latent-foundry": 'exec python -m jobs "$@"',
}


def environment(folder: Path, stubs: dict[str, str]) -> dict[str, str]:
    """As Slurm gives it to a script on two nodes, of which both are this machine."""
    bin_ = folder / "environment/bin"
    bin_.mkdir(parents=True)
    for name, body in stubs.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{body}\n")
        (bin_ / name).chmod(0o755)
    (bin_ / "activate").write_text(f'PATH="{bin_}:{Path(sys.executable).parent}:$PATH"\n')
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return variables | {
        "ENVIRONMENT": str(folder / "environment"),
        "CALLS": str(folder / "calls"),
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "2",
    }


def processes_of(job: str) -> list[str]:
    """Command lines of what is left of a job, by the folder of its Ray."""
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in lines.stdout.splitlines() if f"/tmp/lf-{job}" in line]


def test_the_script_is_one_that_bash_reads_and_names_no_secret() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    text = SCRIPT.read_text()
    assert re.search(r"^#SBATCH --signal=B:TERM@\d+$", text, re.M)
    assert "RAY_AUTH_TOKEN=$(" in text  # made anew for each job, and in no command line


def test_a_head_that_does_not_start_ends_the_job_with_75_and_starts_no_worker(
    tmp_path: Path,
) -> None:
    variables = environment(tmp_path, STUBS | {"srun": 'echo "$*" >>"$CALLS"; exit 1'})
    done = subprocess.run(
        ["bash", str(SCRIPT), "curate"],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (75, "Ray's head did not start")
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert "--nodelist=node-1 ray start --head" in call


@pytest.mark.long
@pytest.mark.ray
def test_a_job_runs_on_a_head_and_a_worker_and_leaves_nothing(
    served_list: ServedList, unharmed_run: Path, tmp_path: Path
) -> None:
    config = cases.configuration(
        served_list.path, tmp_path / "run", engine__runner="ray", engine__gpus=0
    )
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    variables = environment(tmp_path, STUBS)
    command = ["bash", str(SCRIPT), "curate", "--config", str(tmp_path / "curate.yaml")]
    done = subprocess.run(
        command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every row is accounted for" in done.stdout
    assert "asks for no token" not in done.stdout
    head, worker = (tmp_path / "calls").read_text().splitlines()
    assert "--nodelist=node-1 ray start --head" in head
    assert re.search(r"--nodes=1 --exclude=node-1 ray start --address=\S+:\d+ ", worker)
    assert cases.data_files(tmp_path / "run") == cases.data_files(unharmed_run)
    assert not processes_of(variables["SLURM_JOB_ID"])


@pytest.mark.long
@pytest.mark.ray
def test_term_from_slurm_ends_the_command_in_order_and_then_ray(
    served_list: ServedList, tmp_path: Path
) -> None:
    stubs = STUBS | {
        "latent-foundry": 'trap "echo told; exit 143" TERM; echo at work; sleep 60 & wait'
    }
    variables = environment(tmp_path, stubs)
    with subprocess.Popen(
        ["bash", str(SCRIPT), "curate"], env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "at work" not in process.stdout.readline():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
    assert process.returncode == 143
    assert "told" in rest
    assert not processes_of(variables["SLURM_JOB_ID"])


CONNECT = """
import sys
from jobs.bench.engine_cluster import Node, raylets
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.run.store import RunStore

config = EngineConfig(gpus=0, download_workers=1)
with raylets([Node(cpus=2)]), open_session(RunStore(sys.argv[1]), config, say=print):
    print("open")
"""


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.parametrize(("mode", "lines"), [("disabled", 1), ("token", 0)])
def test_a_cluster_without_a_token_is_warned_about_in_one_line(
    mode: str, lines: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECT, str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": mode},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    *warned, last = done.stdout.splitlines()
    assert last == "open"
    assert len([line for line in warned if "asks for no token" in line]) == lines == len(warned)
