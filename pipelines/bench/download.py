"""img2dataset's command and our download step against one server, in turns.

Both sides are timed from the first request that the server sees to the modification time of the
last file that they write, so that neither side's start-up or exit counts. Neither waits for all
its processes to be up. The server takes its share of the same cores.
"""

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

from pipelines.bench.fidelity import Fidelity, measure_fidelity
from pipelines.bench.image_set import ImageSet, make_image_set, read_real_sizes
from pipelines.bench.img2dataset_command import (
    SHARDS_PER_PROCESS,
    Concurrency,
    count_successes,
    start_img2dataset,
)
from pipelines.bench.process_memory import MemorySampler
from pipelines.bench.timed_server import ServerProcess, serve
from pipelines.stages.download.image_config import ImageConfig

LARGE_SIDE_PX = 1024
IMAGE_SIZE_PX = 512

Say = Callable[[str], None]


class BenchError(Exception):
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
    img2dataset: list[SideRun]
    ours: list[SideRun]
    fidelity: Fidelity

    @property
    def ratio(self) -> float:
        """Our median images/s over img2dataset's."""
        return median_rate(self.ours) / median_rate(self.img2dataset)


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


def _measure_set(name: str, images: ImageSet, bench: DownloadBench, say: Say) -> SetResult:
    with serve(images.folder) as server, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        sides = _Sides(images, server, Path(folder))
        grid = {}
        for concurrency in bench.grid:
            grid[concurrency] = sides.img2dataset(concurrency).images_per_s
            say(f"{name}: img2dataset {concurrency}: {grid[concurrency]:.1f} images/s")
        best = max(grid, key=lambda concurrency: grid[concurrency])
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
        img2dataset=theirs,
        ours=ours,
        fidelity=measure_fidelity((images.folder / file for file in images.names), config),
    )


class _Sides:
    """Both sides over one served set; every run gets a folder of its own and leaves nothing."""

    def __init__(self, images: ImageSet, server: ServerProcess, folder: Path) -> None:
        self._num_images = len(images.names)
        self._server = server
        self._folder = folder
        self._list = folder / "list.parquet"
        captions = [f"photograph {number}" for number in range(self._num_images)]
        urls = [f"{server.url}/{name}" for name in images.names]
        pq.write_table(pa.table({"url": urls, "caption": captions}), self._list)

    def img2dataset(self, concurrency: Concurrency) -> SideRun:
        output = self._folder / "img2dataset"
        process = start_img2dataset(
            self._list,
            output,
            num_rows=self._num_images,
            concurrency=concurrency,
            image_size=IMAGE_SIZE_PX,
        )
        return self._finish(process, output, lambda log: count_successes(output))

    def ours(self, concurrency: Concurrency) -> SideRun:
        output = self._folder / "ours"
        command = [sys.executable, "-m", "pipelines.bench.our_download"]
        command += [str(self._list), str(output), "--workers", str(concurrency.processes)]
        rows = -(-self._num_images // (SHARDS_PER_PROCESS * concurrency.processes))
        command += ["--threads", str(concurrency.threads), "--rows-per-shard", str(rows)]
        command += ["--image-size", str(IMAGE_SIZE_PX)]
        with output.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        return self._finish(process, output, lambda log: int(log.split()[-1]))

    def _finish(
        self, process: "subprocess.Popen[bytes]", output: Path, count: Callable[[str], int]
    ) -> SideRun:
        with MemorySampler(process.pid) as memory:
            status = process.wait()
        log = output.with_suffix(".log").read_text(errors="replace")
        stored = 0 if status else count(log)
        if stored != self._num_images:
            raise BenchError(
                f"{output.name} stored {stored} of {self._num_images} images (exit status "
                f"{status}); the end of what it said:\n{log[-2000:]}"
            )
        seconds = _last_write(output) - self._server.take_times().first
        shutil.rmtree(output)
        return SideRun(
            images_per_s=self._num_images / seconds,
            seconds=seconds,
            peak_memory_bytes=memory.peak.total,
            largest_process_bytes=memory.peak.largest,
        )


def _last_write(folder: Path) -> float:
    """When the last file was written, in seconds since the epoch."""
    return max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
