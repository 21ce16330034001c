"""img2dataset's own command, with the options under which it makes what we make."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHARDS_PER_PROCESS = 2  # more than five would have its pool start a process anew, imports and all


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """How many processes, and threads in each, fetch and resize."""

    processes: int
    threads: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads}"

    def rows_per_shard(self, num_rows: int) -> int:
        """Rows of a shard, such that every process has the same number of shards."""
        return -(-num_rows // (SHARDS_PER_PROCESS * self.processes))


def start_img2dataset(
    url_list: Path, output: Path, *, num_rows: int, concurrency: Concurrency, image_size: int
) -> "subprocess.Popen[bytes]":
    """Start the command; its output is in `output`'s neighbour `<name>.log`."""
    options: dict[str, object] = {
        "url_list": url_list,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": output,
        "image_size": image_size,
        "resize_mode": "center_crop",
        "resize_only_if_bigger": False,
        "encode_quality": 95,
        "processes_count": concurrency.processes,
        "thread_count": concurrency.threads,
        "number_sample_per_shard": concurrency.rows_per_shard(num_rows),
        "extract_exif": False,
        "enable_wandb": False,
        "timeout": 30,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    command += [f"--{name}={value}" for name, value in options.items()]
    return _start(command, log=output.with_suffix(".log"))


def _start(command: Sequence[str], *, log: Path) -> "subprocess.Popen[bytes]":
    quiet = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, env=os.environ | quiet, stdout=stream, stderr=subprocess.STDOUT
        )


def count_successes(output: Path) -> int:
    """Images that img2dataset says it stored."""
    stats = [json.loads(file.read_text()) for file in output.glob("*_stats.json")]
    return sum(int(shard["successes"]) for shard in stats)
