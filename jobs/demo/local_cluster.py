"""A private Ray head on loopback, and jobs submitted to it with Ray's own command line.

For one command that brings its own cluster: nothing of it meets another Ray on the machine.
Ports are free ones, the temporary folder is its own, and every request needs a random token
that only its environment holds.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

from pipelines.engine.chain import EngineError, ResourcesError
from sd_core.say import Say

_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 20.0
_UNFINISHED = ("PENDING", "RUNNING")
_OBJECT_STORE_BYTES = 200_000_000  # tasks exchange shard ids, never image bytes
# Ray's own lines about the submission, and the log that it prints again when a job fails.
_RAY_CHATTER = re.compile(r"^\S+ \S+\s+\w+ \w+\.py:\d+ -- |^Running entrypoint for job ")
_RAY_REPEATS_LOG = re.compile(r" -- Status message: Job entrypoint command failed")


@dataclass(frozen=True)
class LocalCluster:
    """A running head; made by `local_cluster`."""

    address: str
    """The job submission address, `http://127.0.0.1:<port>`."""
    environment: dict[str, str] = field(repr=False)
    """The environment that every `ray` command about this cluster needs; holds its token."""

    def submit(self, script: Sequence[str], *, working_dir: Path, say: Say) -> int:
        """Run a script of `working_dir` by `ray job submit` and stream its log.

        Args:
            script: What follows `python`: a path inside `working_dir`, and arguments.
            working_dir: Uploaded to the cluster, without what .gitignore names.
            say: Given each line of the job's log.

        Returns:
            The script's own exit code (`ray job submit` itself knows only 0 and 1).
        """
        name = f"job-{uuid.uuid4().hex[:12]}"
        command = [*_ray(), "job", "submit", "--submission-id", name, "--log-style", "record"]
        command += ["--log-color", "false", "--working-dir", str(working_dir)]
        command += ["--", sys.executable, *script]
        with subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                lines = _relay(process, say)
                code = process.wait()
            except BaseException:
                process.kill()
                self._stop_job(name)  # its script would outlive the cluster otherwise
                raise
        found = self._driver_exit_code(name)
        if found is None:
            say("\n".join(["ray job submit ended without starting the job:", *lines[-20:]]))
            return code or 1
        return found

    def _stop_job(self, name: str) -> None:
        """Have the cluster end the job's script, and wait until it says that it has."""
        job = f"{self.address}/api/jobs/{name}"
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        with contextlib.suppress(URLError, OSError, ValueError, KeyError):
            _request(f"{job}/stop", self.environment, method="POST")
            while time.monotonic() < deadline:
                if json.loads(_request(job, self.environment))["status"] not in _UNFINISHED:
                    return
                time.sleep(0.3)

    def _driver_exit_code(self, name: str) -> int | None:
        """What the job's script exited with; None where the cluster knows of no such end."""
        with contextlib.suppress(URLError, OSError, ValueError):
            job = json.loads(_request(f"{self.address}/api/jobs/{name}", self.environment))
            code = job["driver_exit_code"]
            return None if code is None else int(code)
        return None


@contextmanager
def local_cluster(*, num_cpus: int, say: Say) -> Iterator[LocalCluster]:
    """Start a Ray head for the `with` block; it is stopped whatever happens inside.

    Args:
        num_cpus: Logical CPUs; may exceed the cores.
        say: Told in one line that it starts and that it stops.

    Raises:
        EngineError: the head does not come up; the message holds the end of its log.
    """
    folder = Path(tempfile.mkdtemp(prefix="lf-ray-", dir="/tmp"))  # sockets: at most 107 bytes
    environment = {
        **os.environ,
        "RAY_TMPDIR": str(folder),  # the address of this head is noted there, and only there
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's head would wait half a minute for work to move to other nodes, of which there are
        # none, and for Ray Train's actors, which never end.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    log = folder / "head.log"
    head = None
    try:
        dashboard_port = _free_port()
        say(f"starting a local Ray head with {num_cpus} logical CPUs on 127.0.0.1")
        head = _start_head(environment, log, num_cpus=num_cpus, dashboard_port=dashboard_port)
        environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard_port}"
        cluster = LocalCluster(environment["RAY_API_SERVER_ADDRESS"], environment)
        _await_dashboard(cluster, head, log)
        yield cluster
    finally:
        if head is not None:
            _stop(head)
        shutil.rmtree(folder, ignore_errors=True)


def _ray() -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts"]


def _start_head(
    environment: dict[str, str], log: Path, *, num_cpus: int, dashboard_port: int
) -> subprocess.Popen[bytes]:
    options = {
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard_port,
        "dashboard-agent-listen-port": 0,
        "dashboard-agent-grpc-port": 0,
        "ray-client-server-port": _free_port(),
        "metrics-export-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": num_cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "include-dashboard": "true",
        "temp-dir": environment["RAY_TMPDIR"],
    }
    # In the foreground, so that its daemons end with it and no `ray stop` is needed, which
    # would stop every other Ray on this machine as well.
    command = [*_ray(), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches us first; we then stop the head in order
        )


def _await_dashboard(cluster: LocalCluster, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and head.poll() is None:
        with contextlib.suppress(URLError, OSError):
            _request(f"{cluster.address}/api/version", cluster.environment)
            return
        time.sleep(0.3)
    lines = log.read_text(errors="replace").splitlines()[-30:]
    state = "ended" if head.poll() is not None else f"did not answer in {_START_TIMEOUT_S:.0f} s"
    kind = EngineError if head.poll() is not None else ResourcesError
    raise kind("\n".join([f"the local Ray head {state}; the end of its log:", *lines]))


def _stop(head: subprocess.Popen[bytes]) -> None:
    head.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(_STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(head.pid, signal.SIGKILL)  # what is left of the head's own process group
    head.wait()


def _relay(process: subprocess.Popen[str], say: Say) -> list[str]:
    lines: list[str] = []
    repeated = False
    assert process.stdout is not None
    for line in process.stdout:
        line = line.rstrip("\n")
        lines.append(line)
        repeated = repeated or _RAY_REPEATS_LOG.search(line) is not None
        if not repeated and not _RAY_CHATTER.search(line):
            say(line)
    return lines


def _request(url: str, environment: dict[str, str], *, method: str = "GET") -> bytes:
    token = environment["RAY_AUTH_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as response:
        content: bytes = response.read()
        return content


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
