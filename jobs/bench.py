"""Bench: what the job costs, measured on this machine.

    python jobs/bench.py download   our download beside img2dataset's command
    python jobs/bench.py curate     the whole on Ray beside the sum of its steps
    python jobs/bench.py memory     peak memory at ten times the rows

Exit codes: 0 measured, 1 failed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pipelines.bench.download import BenchError, DownloadBench, measure_download
from pipelines.bench.hardware import describe_hardware
from pipelines.bench.img2dataset_command import Concurrency
from pipelines.bench.tables import download_table, write_json

_SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def main(arguments: list[str] | None = None) -> int:
    """Run one of the measurements; returns the exit code."""
    options = _parse(arguments)
    hardware = describe_hardware()
    print(hardware, flush=True)
    try:
        results = measure_download(_download_bench(options), say=_say)
    except (BenchError, FileNotFoundError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    print(download_table(results))
    if options.json:
        write_json(options.json, hardware=hardware, download=results)
    return 0


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def _download_bench(options: argparse.Namespace) -> DownloadBench:
    return DownloadBench(
        metadata=options.metadata,
        photos=options.photos,
        cache=options.cache,
        num_images=options.images,
        num_large=options.large_images,
        grid=tuple(options.grid),
        ours=options.ours,
        repeats=options.repeats,
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="our download beside img2dataset's command")
    download.add_argument("--metadata", type=Path, default=_SHARED / "metadata")
    download.add_argument("--images", type=int, default=2400, help="0: not this set")
    download.add_argument("--large-images", type=int, default=600, help="0: not this set")
    download.add_argument("--repeats", type=int, default=3)
    download.add_argument(
        "--grid",
        type=_concurrency,
        nargs="+",
        default=[Concurrency(processes=p, threads=t) for p in (1, 2, 3) for t in (16, 32)],
        metavar="PROCESSESxTHREADS",
        help="what img2dataset is tried with",
    )
    download.add_argument("--ours", type=_concurrency, default=Concurrency(processes=2, threads=32))
    for command in (download,):
        command.add_argument("--photos", type=Path, default=_SHARED / "photos" / "coco_mini")
        cache = Path(tempfile.gettempdir()) / "latent-foundry-bench"
        command.add_argument("--cache", type=Path, default=cache)
        command.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args(arguments)


def _concurrency(text: str) -> Concurrency:
    processes, _, threads = text.partition("x")
    return Concurrency(processes=int(processes), threads=int(threads))


if __name__ == "__main__":
    sys.exit(main())
