"""Jobs as processes of their own, forked from one that has imported everything: a second each."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from tests.contracts.cases import ROOT

DEADLINE_S = 120.0
"""What a job of this suite may take, on a machine that does other things as well."""
MAX_MIB = 2048
"""What a job of this suite may hold in memory, of which its modules take 700."""
TRACE = "Traceback (most recent call last)"


class Fault(Protocol):
    """Something that goes wrong in a job's process; it is pickled on the way there."""

    def install(self) -> None:
        """Called in the process, before the job."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended; `code` is negative for the signal that ended it, None past its deadline."""

    code: int | None
    out: str
    err: str
    took_s: float
    peak_mib: float


class Job:
    """A job in a process of its own that is in a group of its own.

    Args:
        name: Of the file in `jobs`.
        folder: For what it prints, and its temporary files.
        fault: What goes wrong in it.
        environment: Changes of it; None removes a name.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        folder: Path,
        fault: Fault | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        changes = {"TMPDIR": str(folder / "tmp"), **(environment or {})}
        self._started = time.monotonic()
        self.process: BaseProcess = _server().Process(
            target=_work, args=(name, list(arguments), str(folder), fault, changes)
        )
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the job alone."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self, *, deadline_s: float = DEADLINE_S) -> Ended:
        """Wait for its end; past the deadline it is killed and its code is None."""
        peak, code = 0.0, None
        deadline = self._started + deadline_s
        while time.monotonic() < deadline:
            peak = max(peak, _peak_mib(self.process.pid))
            if wait([self.process.sentinel], timeout=0.05):
                self.process.join()
                code = self.process.exitcode
                break
        took_s = time.monotonic() - self._started
        if code is None:
            self.process.kill()
            self.process.join()
        return Ended(
            code=code,
            out=self._out.read_text(errors="replace") if self._out.exists() else "",
            err=self._err.read_text(errors="replace") if self._err.exists() else "",
            took_s=took_s,
            peak_mib=peak,
        )


def run(name: str, arguments: Sequence[str], *, folder: Path, **options: Any) -> Ended:
    """Run a job to its end; options as of `Job`, and `deadline_s`."""
    deadline_s = options.pop("deadline_s", DEADLINE_S)
    return Job(name, arguments, folder=folder, **options).end(deadline_s=deadline_s)


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.hostile.warm"])
    return context


def _work(
    name: str,
    arguments: list[str],
    folder: str,
    fault: Fault | None,
    changes: Mapping[str, str | None],
) -> None:
    """The life of the process: as `python jobs/<name>.py`, but for the imports."""
    os.setpgid(0, 0)
    for number, stream in ((1, "stdout"), (2, "stderr")):
        handle = os.open(f"{folder}/{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        os.close(handle)
    for key, value in changes.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    os.chdir(ROOT)
    sys.argv = [f"jobs/{name}.py", *arguments]
    if fault is not None:
        fault.install()
    sys.exit(import_module(f"jobs.{name}").main(arguments))


def _peak_mib(pid: int | None) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = status.partition("VmHWM:")[2].split()
    return int(found[0]) / 1024 if found else 0.0
