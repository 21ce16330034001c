"""The machine that a figure belongs to, or that a configuration is written for."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Processor, cores that this process may use, memory in bytes, load when asked."""

    processor: str
    num_cores: int
    memory_bytes: int
    load_1_min: float

    def __str__(self) -> str:
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        load = f"load {self.load_1_min:.2f} before the start"
        return f"{self.processor}, {self.num_cores} cores, {memory}; {load}"


def describe_hardware() -> Hardware:
    """What this machine says of itself."""
    return Hardware(
        processor=_processor(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        load_1_min=os.getloadavg()[0],
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
