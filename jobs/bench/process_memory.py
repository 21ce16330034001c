"""Peak memory of a process and all its descendants, sampled from /proc (Linux)."""

import os
import resource
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

_PROC = Path("/proc")


@dataclass(kw_only=True)
class PeakMemory:
    """What a tree of processes took at most, in bytes.

    Attributes:
        total: The largest sum of proportional set sizes (shared pages counted once).
        by_process: Process id to its peak resident set, as the kernel kept it.
        commands: Process id to its command line.
    """

    total: int = 0
    by_process: dict[int, int] = field(default_factory=dict)
    commands: dict[int, str] = field(default_factory=dict)

    @property
    def largest(self) -> int:
        """The largest peak resident set of one process."""
        return max(self.by_process.values(), default=0)

    def largest_of(self, *words: str) -> int | None:
        """The same among processes whose command line has one of the words; None without any."""
        peaks = [
            peak
            for pid, peak in self.by_process.items()
            if any(word in self.commands[pid] for word in words)
        ]
        return max(peaks, default=None)


class MemorySampler:
    """Samples a process tree while its `with` block runs.

    Args:
        root: Process id at the top of the tree.
        period_s: Between samples; a sample takes milliseconds of CPU.
    """

    def __init__(self, root: int, *, period_s: float = 1.0) -> None:
        self.peak = PeakMemory()
        self._root = root
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_often, name="memory", daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample_often(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        total = 0
        for pid in process_tree(self._root):
            peak = _kilobytes(pid, "status", "VmHWM:")
            share = _kilobytes(pid, "smaps_rollup", "Pss:")
            if peak is None or share is None:
                continue  # it has just ended
            total += share
            self.peak.by_process[pid] = peak
            self.peak.commands[pid] = _command(pid)
        self.peak.total = max(self.peak.total, total)


def resident_bytes(pid: int, *, peak: bool = False) -> int:
    """What a living process holds now, or held at most."""
    return _kilobytes(pid, "status", "VmHWM:" if peak else "VmRSS:") or 0


def process_tree(root: int) -> list[int]:
    """The process and all its descendants that are alive."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            try:
                stat = (_PROC / entry / "stat").read_text()
            except OSError:
                continue
            children[int(stat.rpartition(")")[2].split()[1])].append(int(entry))
    tree = [root]
    for pid in tree:
        tree += children[pid]
    return tree


def own_peak_bytes() -> int:
    """The peak resident set of this process; `ru_maxrss` begins with that of the one before exec,
    so with its parent's."""
    peak = _kilobytes(os.getpid(), "status", "VmHWM:")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if peak is None else peak


def _kilobytes(pid: int, file: str, label: str) -> int | None:
    """Bytes that a line such as `VmHWM:  123 kB` tells; None where the process is gone."""
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(label)), None)


def _command(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def cpu_seconds(pid: int) -> float:
    """CPU time of a living process, without its children's."""
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
