"""Peak memory of each process of a curate job, at few rows and at many of the same shard size."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jobs.bench.curate_case import Models, curate_settings, write_photo_list
from jobs.bench.download import BenchError
from jobs.bench.process_memory import MemorySampler, PeakMemory
from jobs.bench.timed_server import serve
from sd_core.say import Say

_ROLES = {  # words of a command line
    "download worker": ("DownloadWorker",),
    "decoder": ("decoder_child",),
    "score worker": ("ScoreWorker",),
    "encode worker": ("EncodeWorker",),
}


@dataclass(frozen=True, kw_only=True)
class MemoryBench:
    """What to measure; `script` is jobs/curate.py."""

    script: Path
    models: Models
    photos: Path
    few_rows: int
    many_rows: int
    rows_per_shard: int


@dataclass(frozen=True, kw_only=True)
class RoleMemory:
    """The largest peak resident set among the processes of one role, in bytes."""

    role: str
    few_bytes: int
    many_bytes: int

    @property
    def ratio(self) -> float:
        """Many rows over few."""
        return self.many_bytes / self.few_bytes


@dataclass(frozen=True, kw_only=True)
class MemoryResult:
    """By role; and how many rows there were."""

    few_rows: int
    many_rows: int
    rows_per_shard: int
    models: Models
    roles: list[RoleMemory]


def measure_memory(bench: MemoryBench, *, say: Say) -> MemoryResult:
    """Run the job twice, each on a Ray of its own.

    Raises:
        BenchError: a job failed.
        FileNotFoundError: no photographs.
    """
    peaks = []
    for num_rows in (bench.few_rows, bench.many_rows):
        peaks.append(_peaks_by_role(bench, num_rows))
        found = ", ".join(f"{role} {peak / 1e6:.0f} MB" for role, peak in peaks[-1].items())
        say(f"{num_rows} rows: {found}")
    few, many = peaks
    return MemoryResult(
        few_rows=bench.few_rows,
        many_rows=bench.many_rows,
        rows_per_shard=bench.rows_per_shard,
        models=bench.models,
        roles=[RoleMemory(role=role, few_bytes=few[role], many_bytes=many[role]) for role in few],
    )


def _peaks_by_role(bench: MemoryBench, num_rows: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name, serve(bench.photos) as server:
        folder = Path(name)
        url_list = folder / "list.parquet"
        write_photo_list(url_list, url=server.url, photos=bench.photos, num_rows=num_rows)
        settings = curate_settings(
            models=bench.models,
            url_list=url_list,
            output=folder / "run",
            rows_per_shard=bench.rows_per_shard,
        )
        config = folder / "config.yaml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, str(bench.script), "--config", str(config)],
                env=os.environ | {"PYTHONPATH": str(bench.script.parents[1])},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        with MemorySampler(process.pid) as memory:
            status = process.wait()
        if status:
            end = log.read_text(errors="replace")[-2000:]
            raise BenchError(f"{bench.script.name} exited with {status}:\n{end}")
        return _by_role(memory.peak, driver=process.pid)


def _by_role(peak: PeakMemory, *, driver: int) -> dict[str, int]:
    found = {role: peak.largest_of(*words) for role, words in _ROLES.items()}
    missing = [role for role, bytes_ in found.items() if bytes_ is None]
    if missing:
        raise BenchError(f"saw no {', no '.join(missing)}; more rows make them live longer")
    return {"driver": peak.by_process[driver]} | {
        role: bytes_ for role, bytes_ in found.items() if bytes_ is not None
    }
