"""Curating drawn pictures with planted truth: does select find what was planted?"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.curate_case import curate_config
from jobs.demo.outcome import list_shards
from jobs.demo.planted import BLOCKED_WORD, PLANTED_SEED, PlantedSet, write_planted
from jobs.demo.planted_recall import PlantedFindings, judge_planted
from jobs.demo.server import LoopbackServer
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.workflows.curate import curate
from sd_core.say import Say

_ROWS_PER_SHARD = 500
# Chosen on other seeds: see `write_planted`'s.
_DUPLICATES = {
    "by": ["url", "sha256", "phash", "embedding"],
    "phash_distance": 9,
    "phash_needs_similarity": 0.96,
    "embedding_similarity": 0.9995,
}


@dataclass(frozen=True, kw_only=True)
class PlantedBench:
    """How many pictures, and from which seed on."""

    pictures: int
    seed: int = PLANTED_SEED


def measure_planted(bench: PlantedBench, *, say: Say) -> PlantedFindings:
    """Draw, serve, curate with the tiny models, and judge."""
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        folder = Path(scratch)
        served = folder / "served"
        served.mkdir()
        with LoopbackServer(served) as server:
            planted = write_planted(
                served, count=bench.pictures, server=server.url, seed=bench.seed
            )
            say(f"{len(planted.rows):,} pictures are drawn")
            begin = time.perf_counter()
            config = curate_config(_settings(planted, folder))
            curate(config, steps=("download", "score", "select"), say=say)
            say(f"curated in {time.perf_counter() - begin:.0f} s")
        return judge_planted(planted.rows, _ledger(RunStore(str(folder / "run"))))


def _settings(planted: PlantedSet, folder: Path) -> dict[str, Any]:
    columns = {
        "URL": [row.url for row in planted.rows],
        "TEXT": [row.caption for row in planted.rows],
        "planted": [row.planted for row in planted.rows],
    }
    pq.write_table(pa.table(columns), folder / "list.parquet")
    lists = {"urls": planted.urls, "sha256": planted.sha256, "words": [BLOCKED_WORD]}
    for name, entries in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(entries) + "\n")
    return {
        "output": str(folder / "run"),
        "source": {"path": str(folder / "list.parquet")},
        "plan": {"rows_per_shard": _ROWS_PER_SHARD},
        "block": {name: str(folder / f"{name}.txt") for name in ("urls", "sha256")},
        "download": {"allow_networks": ["127.0.0.0/8"]},
        "image": {"size": 64, "subsampling": "4:4:4"},
        "score": {
            "clip": {"name": "preset:tiny/clip"},
            "aesthetic_v1": {"weights": "preset:tiny/aesthetic.safetensors"},
            "embeddings": True,
        },
        "select": {
            "rules": [
                {"block_words": str(folder / "words.txt")},
                {"column": "aesthetic_v1", "min": 6.0},
                {"column": "clip_similarity", "min": 0.62},
            ],
            "duplicates": _DUPLICATES,
        },
        "engine": {"runner": "local"},
    }


def _ledger(store: RunStore) -> Iterator[dict[str, Any]]:
    for path in list_shards(store, "ledger"):
        yield from read_table(store, path, columns=["url", "kept", "reason"]).to_pylist()
