"""img2dataset's command and our download step against one server, in turns.

Both sides are timed from the first request that the server sees to the modification time of the
last file that they write, so that neither side's start-up or exit counts. Neither waits for all
its processes to be up. The server takes its share of the same cores.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.fidelity import Fidelity, measure_fidelity
from jobs.bench.image_set import BenchImages, make_image_set, read_real_sizes
from jobs.bench.img2dataset_command import (
    QUIET,
    Concurrency,
    count_successes,
    img2dataset_command,
)
from jobs.bench.process_memory import MemorySampler, cpu_seconds
from jobs.bench.timed_server import ServerProcess, serve
from pipelines.steps.download.image_config import ImageConfig
from sd_core.errors import FoundryError
from sd_core.say import Say

LARGE_SIDE_PX = 1024
IMAGE_SIZE_PX = 512
_FEW = 8  # images of a run that is all start-up and exit


class BenchError(FoundryError):
    """A measurement is void; the message says why."""


@dataclass(frozen=True, kw_only=True)
class DownloadBench:
    """What to measure.

    Attributes:
        metadata: Folder of the list of real sizes.
        photos: Folder of .jpg photographs.
        cache: Where the JPEGs are kept between runs.
        num_images, num_large: Of the set with all sizes, and of that with large ones only.
        grid: What img2dataset is tried with, once; it then runs with its best.
        ours: What we run with.
        repeats: Measured runs of each side, after the grid.
    """

    metadata: Path
    photos: Path
    cache: Path
    num_images: int
    num_large: int
    grid: tuple[Concurrency, ...]
    ours: Concurrency
    repeats: int


@dataclass(frozen=True, kw_only=True)
class SideRun:
    """One run of one side."""

    images_per_s: float
    seconds: float
    cpu_s: float
    """Of all its processes and the server, start-up and exit included."""
    peak_memory_bytes: int
    """Proportional set sizes of all its processes together."""
    largest_process_bytes: int
    """Peak resident set of the largest."""


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """Both sides on one set; `grid` holds img2dataset's images/s by processes x threads."""

    name: str
    num_images: int
    num_bytes: int
    real_bytes: int
    median_short_side_px: int
    grid: dict[str, float]
    img2dataset_concurrency: str
    our_concurrency: str
    img2dataset_cpu_ms: float
    """CPU milliseconds an image (the median run's), without start-up; the server's are in it."""
    our_cpu_ms: float
    img2dataset: list[SideRun]
    ours: list[SideRun]
    fidelity: Fidelity

    @property
    def ratio(self) -> float:
        """Our median images/s over img2dataset's."""
        return median_rate(self.ours) / median_rate(self.img2dataset)

    @property
    def cpu_ratio(self) -> float:
        """img2dataset's CPU time an image over ours."""
        return self.img2dataset_cpu_ms / self.our_cpu_ms


def median_rate(runs: Sequence[SideRun]) -> float:
    """The middle images/s."""
    return statistics.median(run.images_per_s for run in runs)


def measure_download(bench: DownloadBench, *, say: Say) -> list[SetResult]:
    """Measure both sets.

    Raises:
        BenchError: a side failed, or stored fewer images than there are.
        FileNotFoundError: no list of sizes, or no photographs.
    """
    results = []
    for name, side, count in (
        ("all sizes", 1, bench.num_images),
        (f"{LARGE_SIDE_PX} px and more", LARGE_SIDE_PX, bench.num_large),
    ):
        if not count:
            continue
        say(f"{name}: {count} JPEGs in {bench.cache} (made where they are missing)")
        sizes = read_real_sizes(bench.metadata, min_side_px=side)
        images = make_image_set(bench.cache, sizes=sizes, photos=bench.photos, num_images=count)
        results.append(_measure_set(name, images, bench, say))
    return results


def _measure_set(name: str, images: BenchImages, bench: DownloadBench, say: Say) -> SetResult:
    with serve(images.folder) as server, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        sides = _Sides(images, server, Path(folder))
        grid = {}
        for concurrency in bench.grid:
            grid[concurrency] = sides.img2dataset(concurrency).images_per_s
            say(f"{name}: img2dataset {concurrency}: {grid[concurrency]:.1f} images/s")
        best = max(grid, key=lambda concurrency: grid[concurrency])
        idle = sides.img2dataset(best, num_rows=_FEW), sides.ours(bench.ours, num_rows=_FEW)
        theirs, ours = [], []
        for _ in range(bench.repeats):
            theirs.append(sides.img2dataset(best))
            ours.append(sides.ours(bench.ours))
            rates = f"{theirs[-1].images_per_s:.1f}, ours {ours[-1].images_per_s:.1f} images/s"
            say(f"{name}: img2dataset {rates}")
    say(f"{name}: comparing crops with full decodes")
    config = ImageConfig(size=IMAGE_SIZE_PX)
    return SetResult(
        name=name,
        num_images=len(images.names),
        num_bytes=images.num_bytes,
        real_bytes=images.real_bytes,
        median_short_side_px=images.median_short_side_px,
        grid={str(concurrency): rate for concurrency, rate in grid.items()},
        img2dataset_concurrency=str(best),
        our_concurrency=str(bench.ours),
        img2dataset_cpu_ms=_cpu_ms(theirs, idle[0], num_images=len(images.names)),
        our_cpu_ms=_cpu_ms(ours, idle[1], num_images=len(images.names)),
        img2dataset=theirs,
        ours=ours,
        fidelity=measure_fidelity((images.folder / file for file in images.names), config),
    )


def _cpu_ms(runs: Sequence[SideRun], idle: SideRun, *, num_images: int) -> float:
    spent = statistics.median(run.cpu_s for run in runs) - idle.cpu_s
    return 1000 * spent / (num_images - _FEW)


class _Sides:
    """Both sides over one served set; every run gets a folder of its own and leaves nothing."""

    def __init__(self, images: BenchImages, server: ServerProcess, folder: Path) -> None:
        self._num_images = len(images.names)
        self._server = server
        self._folder = folder
        self._urls = [f"{server.url}/{name}" for name in images.names]

    def img2dataset(self, concurrency: Concurrency, *, num_rows: int | None = None) -> SideRun:
        url_list = self._write_list(num_rows)
        output = self._folder / "img2dataset"
        command = img2dataset_command(
            url_list,
            output,
            rows_per_shard=concurrency.rows_per_shard(num_rows or self._num_images),
            concurrency=concurrency,
            image_size=IMAGE_SIZE_PX,
        )
        return self._run(command, output, num_rows, lambda log: count_successes(output))

    def ours(self, concurrency: Concurrency, *, num_rows: int | None = None) -> SideRun:
        url_list = self._write_list(num_rows)
        output = self._folder / "ours"
        rows_per_shard = concurrency.rows_per_shard(num_rows or self._num_images)
        command = [sys.executable, "-m", "jobs.bench.our_download", str(url_list), str(output)]
        command += ["--workers", str(concurrency.processes), "--threads", str(concurrency.threads)]
        command += ["--rows-per-shard", str(rows_per_shard), "--image-size", str(IMAGE_SIZE_PX)]
        return self._run(command, output, num_rows, lambda log: int(log.split()[-1]))

    def _write_list(self, num_rows: int | None) -> Path:
        path = self._folder / "list.parquet"
        urls = self._urls[:num_rows]
        captions = [f"photograph {number}" for number in range(len(urls))]
        pq.write_table(pa.table({"url": urls, "caption": captions}), path)
        return path

    def _run(
        self,
        command: Sequence[str],
        output: Path,
        num_rows: int | None,
        count: Callable[[str], int],
    ) -> SideRun:
        expected = num_rows or self._num_images
        server_cpu_s = cpu_seconds(self._server.pid)
        log_file = output.with_suffix(".log")
        with log_file.open("wb") as stream:
            process = subprocess.Popen(
                command, env=os.environ | QUIET, stdout=stream, stderr=subprocess.STDOUT
            )
        with MemorySampler(process.pid) as memory:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status  # it is reaped: Popen need not wait for it
        server_cpu_s = cpu_seconds(self._server.pid) - server_cpu_s
        log = log_file.read_text(errors="replace")
        stored = 0 if status else count(log)
        if stored != expected:
            raise BenchError(
                f"{output.name} stored {stored} of {expected} images (wait status {status}); the "
                f"end of what it said:\n{log[-2000:]}"
            )
        seconds = _last_write(output) - self._server.take_times().first
        shutil.rmtree(output)
        return SideRun(
            images_per_s=expected / seconds,
            seconds=seconds,
            cpu_s=usage.ru_utime + usage.ru_stime + server_cpu_s,
            peak_memory_bytes=memory.peak.total,
            largest_process_bytes=memory.peak.largest,
        )


def _last_write(folder: Path) -> float:
    """When the last file was written, in seconds since the epoch."""
    return max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
