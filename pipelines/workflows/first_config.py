"""A first configuration of curate for data that was looked at and the machine that is there."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipelines.sources.sniff import Sniffed

_WORKER_BYTES: Final = 1 << 30  # a process that decodes: its libraries, and an original
_MODEL_WORKER_BYTES: Final = 4 << 30
_STORED_BYTES: Final = 100_000  # a picture of 512 px as JPEG, roughly
_SHARDS_A_WORKER: Final = 4
_ROWS_PER_SHARD: Final = (20, 10_000)
_KINDS: Final = {
    "parquet": "a list of URLs in Parquet",
    "csv": "a list of URLs in CSV or TSV",
    "jsonl": "a list of URLs in JSON lines",
    "text": "a list of URLs, one a line",
    "img2dataset": "what img2dataset wrote, with its pictures",
    "webdataset": "tars of samples",
    "folder": "a folder of pictures",
    "parquet_images": "Parquet that holds its pictures",
    "huggingface": "a data set as Hugging Face's `datasets` saves it",
}
_IN_A_COLUMN: Final = "`caption_column` names a column of them"
_BESIDE: Final = "`name.txt` beside `name.jpg`, or metadata.csv, metadata.jsonl, hold them"
_CAPTIONS: Final = {"folder": _BESIDE, "webdataset": "`name.txt` in the tar, or .json, holds them"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a job may use of this machine; `spool_bytes` is free in the temporary folder."""

    num_cores: int
    memory_bytes: int
    spool: str
    spool_bytes: int
    gpus: Sequence[str]
    """The name of each."""

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)} GPU(s) ({', '.join(sorted(set(self.gpus)))})"
        return (
            f"{self.num_cores} cores, {self.memory_bytes / 2**30:.0f} GiB of memory, "
            f"{gpus if self.gpus else 'no GPU'}, {self.spool_bytes / 2**30:.0f} GiB free in "
            f"{self.spool}"
        )

    @property
    def model_workers(self) -> int:
        """Workers with models: one a GPU, else one for every four cores."""
        most = max(1, self.memory_bytes // 2 // _MODEL_WORKER_BYTES)
        return len(self.gpus) or max(1, min(self.num_cores // 4, most))

    @property
    def download_workers(self) -> int:
        """Workers that fetch and decode, on the other cores, as far as half the memory goes."""
        most = max(1, self.memory_bytes // 2 // _WORKER_BYTES)
        return max(1, min(self.num_cores - self.model_workers, most))


def first_config(
    path: str, found: Sniffed, machine: Machine, *, output: str, model_sections: str
) -> str:
    """The configuration as commented YAML, which curate runs as it is, without models.

    Args:
        path: As `source.path`.
        output: As `output`.
        model_sections: `score` and `encode` in YAML, to be shown as a comment.
    """
    parts = [
        _head(found, machine),
        f"output: {_yaml(output)}  # the run's folder: an absolute path or a URL",
        "\n".join(_source(path, found)),
        "\n".join(_plan(found, machine)),
        *([] if found.holds_images else ["\n".join(_DOWNLOAD)]),
        "\n".join(_IMAGE),
        "\n".join(_SELECT),
        "\n".join(_engine(machine)),
        _models(model_sections),
    ]
    return "\n\n".join(parts) + "\n"


def _head(found: Sniffed, machine: Machine) -> str:
    count = f"{found.num_rows:,} rows" if found.is_whole else f"more than {found.num_rows:,} rows"
    files = f"the first of {found.num_files:,}" if found.num_files > 1 else "all of it"
    return "\n".join(
        f"# {line}"
        for line in (
            "Written by `latent-foundry init`; every key is told by `latent-foundry keys`.",
            f"Data: {_KINDS.get(found.format, found.format)}; {count} ({files}).",
            f"Machine: {machine}.",
        )
    )


def _source(path: str, found: Sniffed) -> Iterator[str]:
    yield "source:"
    yield f"  path: {_yaml(path)}"
    for key, value in found.options.items():
        told = found.choices.get(key, ())
        yield f"  {key}: {_yaml(value)}" + (f"  # of: {', '.join(told)}" if told else "")
    if "format" not in found.options:
        yield f"  # format: {found.format}  # told by the names of the files"
    if found.options.get("format") == "parquet_images":
        yield "  # format: parquet would fetch its URLs again"
    if not found.has_captions:
        yield "  # no caption was found; `caption_column` names a column of them"


def _plan(found: Sniffed, machine: Machine) -> Iterator[str]:
    least, most = _ROWS_PER_SHARD
    rows = most if found.num_files > 1 else most // 10
    if found.is_whole:
        workers = machine.download_workers * _SHARDS_A_WORKER
        rows = -(-found.num_rows * found.num_files // workers)
    spooled = machine.spool_bytes // 2 // (machine.download_workers * _STORED_BYTES)
    rows = max(least, min(rows, most, spooled))
    yield "plan:"
    yield f"  rows_per_shard: {rows}  # fixed for the run; a worker spools a shard on local disk"


_DOWNLOAD: Final = (
    "download:",
    "  timeout_s: 30.0",
    "  retries: 2",
    "  # user_agent: say who you are and where you can be reached",
    "  # rules:  # before anything is fetched, by what the list says",
    "  #   - {claimed: side, min: 512}",
)
_IMAGE: Final = (
    "image:",
    "  size: 512  # pixels of a side of the stored square",
    "  # min_side_px: 256  # smaller originals are dropped; they are enlarged otherwise",
    "  # max_aspect: 3.0  # longer ones are dropped",
)
_SELECT: Final = (
    "select:  # can be changed later and cut anew: --steps select",
    "  duplicates: {by: [sha256]}  # phash finds those that were saved anew",
    "  # rules:  # the first that a row breaks is its reason",
    "  #   - {column: sharpness, min: 10}",
)


def _engine(machine: Machine) -> Iterator[str]:
    is_small = machine.num_cores < 3 and not machine.gpus
    yield "engine:"
    yield (
        "  runner: local  # one process; `ray` for several"
        if is_small
        else "  runner: ray  # starts a small Ray here, or joins the one that RAY_ADDRESS names"
    )
    yield f"  download_workers: {machine.download_workers}  # processes that fetch and decode"
    yield "  gpus: auto  # a model worker each"
    yield f"  cpu_model_workers: {machine.model_workers}  # where there is no GPU"


def _models(sections: str) -> str:
    told = (
        "# Scores and latents need models: Stable Diffusion 1.x's are fetched at the first run, "
        "about 3 GB. Remove the signs from the lines that you want."
    )
    head = textwrap.fill(told.removeprefix("# "), 98, initial_indent="# ", subsequent_indent="# ")
    return head + "\n" + "\n".join(f"# {line}".rstrip() for line in sections.strip().splitlines())


def _yaml(value: Any) -> str:
    """JSON is YAML, and quotes whatever needs it."""
    return json.dumps(value, ensure_ascii=False)
