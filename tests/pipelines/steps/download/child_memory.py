"""What a child process holds, read from /proc."""

from pathlib import Path


def memory_mib(pid: int, field: str) -> float:
    """A memory figure of /proc/<pid>/status, such as VmRSS or VmHWM, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024
