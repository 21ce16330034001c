"""A disk that is really full, or mounted read-only, costs no shard; with room the job goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts import job_cases
from tests.contracts.cases import ROOT, ServedList

pytestmark = pytest.mark.slow
_NAMESPACES = (["unshare", "-m"], ["unshare", "-rm"])


def may_mount(namespace: list[str], folder: Path) -> bool:
    tried = [*namespace, "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def test_full_and_read_only_disks_are_75_give_nothing_up_and_the_same_command_goes_on(
    served_list: ServedList, tmp_path: Path
) -> None:
    namespace = next((each for each in _NAMESPACES if may_mount(each, tmp_path)), None)
    if namespace is None:
        pytest.skip("this user may mount nothing, not even in a namespace of its own")
    job_cases.write_list(tmp_path / "list.parquet", served_list, job_cases.PICTURES)
    job_cases.write_prompts(tmp_path / "prompts.parquet", ["a red circle", "a blue square"])
    command = [*namespace, sys.executable, "-m", "tests.contracts.full_disks", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"job"')]
    assert len(lines) == 4
    for line in lines:
        told = line["told"].splitlines()[-1]
        assert (line["code"], line["given_up"], "Traceback" in line["told"]) == (75, [], False), (
            line
        )
        assert told.endswith("; the same command goes on"), line
        where = line["disk"].partition(" ")[0]
        need = "make room in the temporary folder" if where == "spool" else "make room in"
        need = "mount" if line["disk"].endswith("ro") else need
        assert f"; {need} " in told, line
        assert str(tmp_path / "disk") in told, line
        assert (line["again"], line["same"]) == (0, True), line
