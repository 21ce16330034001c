"""A private Ray head and the jobs submitted to it."""

import os
import time
from pathlib import Path

import pytest

from jobs.demo import local_cluster as module
from jobs.demo.local_cluster import local_cluster

SCRIPT = """
import sys
import ray

@ray.remote
class Left:
    def here(self):
        return True

ray.init(namespace="left")
ray.get(Left.options(name="left", lifetime="detached").remote().here.remote())
print("logical CPUs:", int(ray.cluster_resources()["CPU"]), "argument:", sys.argv[1])
sys.exit(3)
"""


@pytest.mark.ray
def test_a_job_is_streamed_keeps_its_exit_code_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "job.py").write_text(SCRIPT)
    lines: list[str] = []
    with local_cluster(num_cpus=3, say=lambda line: None) as cluster:
        folder = Path(cluster.environment["RAY_TMPDIR"])
        token = cluster.environment["RAY_AUTH_TOKEN"]
        assert token not in repr(cluster)
        code = cluster.submit(["job.py", "one"], working_dir=tmp_path, say=lines.append)
        asked_to_stop = time.monotonic()
    assert time.monotonic() - asked_to_stop < module._STOP_TIMEOUT_S, "it had to be killed"
    assert code == 3
    assert lines == ["logical CPUs: 3 argument: one"]
    assert not folder.exists()
    # Ray's own agents end by themselves once their node is gone, a busy machine's a little later.
    deadline = time.monotonic() + 60
    while _processes_holding(token) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _processes_holding(token) == []


def _processes_holding(token: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if token.encode() in environment:
                found.append(int(name))
    return found
