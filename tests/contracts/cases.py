"""A small curate job on drawn pictures, with bad URLs, that the contract tests run many ways."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs.demo.server import LoopbackServer
from jobs.tiny.drawing import FIRST_HELD_OUT_SEED, draw
from pipelines.config import load_config
from pipelines.workflows.curate import curate
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.job import JobResult


class Killed(BaseException):
    """Stands for the death of the process: nothing of ours catches it."""


@dataclass(frozen=True, kw_only=True)
class ServedList:
    """A list whose URLs are served for the whole test session."""

    path: Path
    server: LoopbackServer


ROOT = Path(__file__).resolve().parents[2]
NUM_PICTURES = 48
SHIPPED_RULES = "{column: aesthetic_v1, min: 6.0}, {column: clip_similarity, min: 0.62}"
"""The demo's own, for tests that add one."""
BAD = ("not_found", "gone", "opted_out", "redirect_to_private", "truncated_jpeg", "html")


def write_pictures(folder: Path) -> None:
    """Pictures `000.png` and so on; every eighth is a copy of the one before it."""
    for number in range(NUM_PICTURES):
        seed = FIRST_HELD_OUT_SEED + 500_000 + number - (number % 8 == 7)
        picture = draw(seed, width=96, height=80, flaw="blur" if number % 5 == 4 else None)
        Image.fromarray(np.asarray(picture.image)).save(folder / f"{number:03d}.png")


def write_list(path: Path, url: str) -> None:
    """The list: every picture, then bad URLs, then one row twice."""
    urls, texts = [], []
    for number in range(NUM_PICTURES):
        seed = FIRST_HELD_OUT_SEED + 500_000 + number - (number % 8 == 7)
        urls.append(f"{url}/{number:03d}.png")
        texts.append(draw(seed, width=96, height=80).caption)
    for name in BAD:
        urls.append(f"{url}/bad/{name}")
        texts.append(f"a bad answer: {name}")
    urls.append(urls[0])
    texts.append(texts[0])
    table = pa.table({"URL": urls, "TEXT": texts, "licence": ["CC0"] * len(urls)})
    pq.write_table(table, path)


NUM_ROWS = NUM_PICTURES + len(BAD) + 1


def small_settings(list_path: str | Path, output: str | Path) -> dict[str, Any]:
    """By key, what makes the demo's configuration one of small shards and of this machine."""
    return {
        "source.path": list_path,
        "output": output,
        "plan.rows_per_shard": 10,
        "download.allow_networks": "[127.0.0.0/8]",
        "download.timeout_s": 3.0,
        "download.retries": 0,
        "engine.runner": "local",
    }


def configuration(list_path: Path, output: str | Path, **options: Any) -> CurateConfig:
    """The demo's configuration with small shards; `section__field=value` changes it further."""
    settings = small_settings(list_path, output)
    settings |= {name.replace("__", "."): value for name, value in options.items()}
    return load_config(
        CurateConfig,
        ROOT / "configs/curate/demo.yaml",
        overrides=[f"{name}={value}" for name, value in settings.items()],
    )


def run(
    config: CurateConfig, *, steps: tuple[str, ...] = (), **options: bool
) -> tuple[JobResult, list[str]]:
    """Run the job in this process; returns its result and what it said."""
    said: list[str] = []
    return curate(config, steps=steps, say=said.append, **options), said


def data_files(output: Path) -> dict[str, str]:
    """sha256 of every tar and Parquet file, and of every manifest, by path in the run.

    A process killed within a write leaves a `.tmp-` file, which the storage never lists.
    """
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".tmp-")
        and (path.suffix in (".tar", ".parquet") or "manifests" in path.parts)
    }


HOSTILE = '<script>alert("x")</script> "quoted" <img src=x onerror=alert(1)> `|` {{ 7 * 7 }}'
"""Text that means something to whatever it is put into without care."""


def write_hostile_list(served: Path, path: Path) -> Path:
    """The served list with markup in captions, URLs and licences, formulas, and signs that turn a
    line or ring a bell."""
    table = pq.read_table(served).to_pydict()
    table["TEXT"][0] = table["TEXT"][4] = HOSTILE
    table["TEXT"][1] = '=HYPERLINK("javascript:alert(4)")\u202egnp.exe\u202c \x07\x1b[31m'
    table["URL"][4] += "?a=<script>alert(2)</script>"
    table["URL"].append("javascript:alert(3)")
    table["TEXT"].append("a script")
    table["licence"] = ["CC0"] * 30 + [HOSTILE] * (len(table["URL"]) - 30)
    pq.write_table(pa.table(table), path)
    return path
