"""img2dataset's own command, with the options under which it makes what we make."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

SHARDS_PER_PROCESS = 2  # more than five would have its pool start a process anew, imports and all
QUIET = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
"""Its environment: nothing of it calls home."""


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


def img2dataset_command(
    url_list: Path,
    output: Path,
    *,
    rows_per_shard: int,
    concurrency: Concurrency,
    image_size: int,
) -> list[str]:
    """The command line."""
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
        "number_sample_per_shard": rows_per_shard,
        "extract_exif": False,
        "enable_wandb": False,
        "timeout": 30,
    }
    command = [str(Path(sys.executable).with_name("img2dataset"))]
    return command + [f"--{name}={value}" for name, value in options.items()]


def count_successes(output: Path) -> int:
    """Images that img2dataset says it stored."""
    stats = [json.loads(file.read_text()) for file in output.glob("*_stats.json")]
    return sum(int(shard["successes"]) for shard in stats)
