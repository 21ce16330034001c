"""The command line of jobs.bench; what each command measures is loaded when it is chosen."""

import argparse
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.bench.gpu.names import DEADLINES_S
from jobs.bench.img2dataset_command import Concurrency
from jobs.bench.peer_part import PEER_PARTS, PeersBench

if TYPE_CHECKING:
    from jobs.bench.curate import CurateBench
    from jobs.bench.download import DownloadBench
    from jobs.bench.generate import GenerateBench
    from jobs.bench.memory import MemoryBench
    from jobs.bench.planted import PlantedBench
    from jobs.bench.readers import ReadersBench
    from jobs.bench.select import SelectBench
    from jobs.bench.train import TrainBench

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"  # beside the project
_WAIT_S = 1.0


def parse(arguments: list[str] | None, *, description: str, epilog: str = "") -> argparse.Namespace:
    """The options; `command` is the name of a measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.bench",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_download(commands.add_parser("download", help="our download beside img2dataset's command"))
    _add_curate(commands.add_parser("curate", help="the whole on Ray beside the sum of its steps"))
    _add_memory(commands.add_parser("memory", help="peak memory at ten times the rows"))
    _add_train(commands.add_parser("train", help="from the cache beside encoding online"))
    _add_generate(commands.add_parser("generate", help="beside the plain diffusers pipeline"))
    _add_select(commands.add_parser("select", help="a ledger cut anew, at growing sizes"))
    _add_takedown(commands.add_parser("takedown", help="rows out of a run of small shards"))
    _add_planted(commands.add_parser("planted", help="does select find what was planted?"))
    _add_readers(
        commands.add_parser("readers", help="do all readers find the kept rows of many shards?")
    )
    why = commands.add_parser("why", help="the life of one row of a large run; every --help")
    why.add_argument("--rows", type=int, default=1_000_000)
    command = commands.add_parser("browse", help="the page over a large run: first view, filters")
    command.add_argument("--rows", type=int, default=100_000)
    _add_engine(commands.add_parser("engine", help="how well it feeds workers that come and go"))
    text = commands.add_parser("text", help="is text found where it was drawn?")
    text.add_argument("--pictures", type=int, default=1_000, help="drawn ones")
    text.add_argument("--chinese-font", type=Path, help="by default one of Debian's")
    _add_peers(commands.add_parser("peers", help="beside own loops of peers' public patterns"))
    feed = commands.add_parser("feed", help="the CPU's work an image, and cores a GPU needs")
    feed.add_argument("--images", type=int, default=256, help="crops of 512 px")
    _add_gpu(commands.add_parser("gpu", help="what a GPU reaches, and what fails on one"))
    for command in commands.choices.values():
        photos = _SHARED / "photos" / "coco_mini"
        command.add_argument("--photos", type=Path, default=photos, help="a folder of .jpg files")
        command.add_argument("--metadata", type=Path, default=_SHARED / "metadata", help="of LAION")
        command.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args(arguments)


def download_bench(options: argparse.Namespace) -> "DownloadBench":
    """What `download` measures."""
    from jobs.bench.download import DownloadBench

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


def curate_benches(options: argparse.Namespace) -> "list[CurateBench]":
    """What `curate` measures: work with the tiny models, and waiting with real sizes."""
    from jobs.bench.curate import CurateBench

    work = CurateBench(
        name="work",
        models="tiny",
        photos=options.photos,
        num_rows=options.rows,
        rows_per_shard=options.rows_per_shard,
        threads=32,
        delay_s=0.0,
        repeats=options.repeats,
    )
    waiting = CurateBench(
        name="waiting",
        models="real",
        photos=options.photos,
        num_rows=options.waiting_rows,
        rows_per_shard=16,
        threads=32,
        delay_s=_WAIT_S,
        repeats=1,
    )
    return [bench for bench in (work, waiting) if bench.num_rows]


def memory_bench(options: argparse.Namespace, *, script: Path) -> "MemoryBench":
    """What `memory` measures; `script` is jobs/curate.py."""
    from jobs.bench.memory import MemoryBench

    return MemoryBench(
        script=script,
        models=options.models,
        photos=options.photos,
        few_rows=options.few,
        many_rows=options.many,
        rows_per_shard=options.rows_per_shard,
    )


def train_bench(options: argparse.Namespace) -> "TrainBench":
    """What `train` measures."""
    from jobs.bench.train import TrainBench

    return TrainBench(
        models=options.models,
        batch_size=options.batch_size,
        warm_up_steps=options.warm_up_steps,
        steps=options.steps,
        repeats=options.repeats,
        loader_rows=options.loader_rows,
        device=_device(options),
    )


def generate_bench(options: argparse.Namespace) -> "GenerateBench":
    """What `generate` measures."""
    from jobs.bench.generate import GenerateBench

    device = _device(options)
    return GenerateBench(
        models=options.models,
        images=options.images,
        batch_size=options.batch_size,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        repeats=options.repeats,
        workers=options.workers or (1 if device.startswith("cuda") else os.cpu_count() or 1),
        device=device,
    )


def select_bench(options: argparse.Namespace) -> "SelectBench":
    """What `select` measures."""
    from jobs.bench.select import SelectBench

    return SelectBench(rows=tuple(sorted(options.rows)), metadata=options.metadata)


def readers_bench(options: argparse.Namespace) -> "ReadersBench":
    """What `readers` reads."""
    from jobs.bench.readers import ReadersBench

    return ReadersBench(shards=options.shards, priced_shards=options.priced_shards)


def peers_bench(options: argparse.Namespace) -> PeersBench:
    """What `peers` measures."""
    return PeersBench(
        repeats=options.repeats,
        scale=options.scale,
        photos=options.photos,
        metadata=options.metadata,
    )


def planted_bench(options: argparse.Namespace) -> "PlantedBench":
    """What `planted` judges."""
    from jobs.bench.planted import PlantedBench
    from jobs.demo.planted import PLANTED_SEED

    seed = PLANTED_SEED if options.seed is None else options.seed
    return PlantedBench(pictures=options.pictures, seed=seed)


def _add_download(command: argparse.ArgumentParser) -> None:
    grid = [Concurrency(processes=p, threads=t) for p in (1, 2, 3) for t in (16, 32)]
    command.add_argument("--images", type=int, default=2400, help="of all sizes; 0: not this set")
    command.add_argument(
        "--large-images", type=int, default=600, help="of 1,024 px and more; 0: not this set"
    )
    command.add_argument("--repeats", type=int, default=3, help="measured runs of each side")
    command.add_argument(
        "--grid", type=_concurrency, nargs="+", default=grid, help="img2dataset is tried with these"
    )
    command.add_argument(
        "--ours", type=_concurrency, default=Concurrency(processes=2, threads=32), help="2x32"
    )
    cache = Path(tempfile.gettempdir()) / "latent-foundry-bench"
    command.add_argument("--cache", type=Path, default=cache, help="where the JPEGs are kept")


def _add_curate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows", type=int, default=2000, help="with tiny models; 0: not this")
    command.add_argument(
        "--waiting-rows", type=int, default=64, help="with real sizes and a slow server; 0: not"
    )
    command.add_argument("--rows-per-shard", type=int, default=100)
    command.add_argument("--repeats", type=int, default=2, help="the fastest of each side counts")


def _add_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", choices=("tiny", "real"), default="tiny")
    command.add_argument("--few", type=int, default=1_000)
    command.add_argument("--many", type=int, default=10_000)
    command.add_argument("--rows-per-shard", type=int, default=100)


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", choices=("tiny", "real"), default="tiny")
    command.add_argument("--batch-size", type=int, default=32)
    command.add_argument("--steps", type=int, default=10, help="measured, on each side")
    command.add_argument("--warm-up-steps", type=int, default=2)
    command.add_argument("--repeats", type=int, default=2, help="the fastest of each side counts")
    command.add_argument("--loader-rows", type=int, default=4096, help="0: not the loader")
    command.add_argument("--device", help="by default cuda where there is one, else cpu")


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", choices=("tiny", "real"), default="tiny")
    command.add_argument("--images", type=int, default=64)
    command.add_argument("--batch-size", type=int, default=16)
    command.add_argument("--steps", type=int, default=20)
    command.add_argument("--guidance-scale", type=float, default=7.5)
    command.add_argument("--repeats", type=int, default=2, help="the fastest of each side counts")
    command.add_argument(
        "--workers", type=int, default=0, help="of ours; by default one a core, or one on a GPU"
    )
    command.add_argument("--device", help="by default cuda where there is one, else cpu")


def _add_select(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])


def _add_takedown(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shards", type=int, default=10_000)
    command.add_argument("--rows-per-shard", type=int, default=10)
    command.add_argument("--urls", type=int, default=100, help="taken down, each in another shard")


def _add_readers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--shards", type=int, default=3_000, help="that are read; 0: not this")
    command.add_argument(
        "--priced-shards", type=int, default=10_000, help="of which 1%% are cut anew; 0: not this"
    )


def _add_planted(command: argparse.ArgumentParser) -> None:
    command.add_argument("--pictures", type=int, default=5_000)
    command.add_argument("--seed", type=int, help="of the pictures; by default held out ones")


def _add_engine(command: argparse.ArgumentParser) -> None:
    parts = ["a", "b", "c", "d"]
    command.add_argument("--part", nargs="+", choices=parts, default=parts, help="all by default")
    sizes = [2_000, 4_000, 8_000]
    command.add_argument("--shards", nargs="+", type=int, default=sizes, help="of the runs of (b)")


def _add_peers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--part", nargs="+", choices=PEER_PARTS, default=[], help="all by default")
    command.add_argument("--repeats", type=int, default=5, help="the median of each side counts")
    command.add_argument("--scale", type=float, default=1.0, help="of each part's size, for a try")


def _add_gpu(command: argparse.ArgumentParser) -> None:
    items = list(DEADLINES_S)
    command.add_argument("--budget", type=float, default=330.0, help="seconds of all items")
    command.add_argument("--item", nargs="+", choices=items, default=items, help="all by default")
    command.add_argument("--tiny", action="store_true", help="presets, a few rows; on a CPU too")


def _device(options: argparse.Namespace) -> str:
    import torch

    return options.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _concurrency(text: str) -> Concurrency:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give PROCESSESxTHREADS, such as 2x32")
    return Concurrency(processes=int(found[1]), threads=int(found[2]))
