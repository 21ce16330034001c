"""Taking rows out of a made run of many small shards: what it costs where there is little to do."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.bench.made_run import MadeRun
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.store import RunStore
from sd_core.say import Say


@dataclass(frozen=True, kw_only=True)
class TakedownBench:
    """How large the run is, and how many URLs are taken down, each in a shard of its own."""

    shards: int
    rows_per_shard: int
    urls: int


@dataclass(frozen=True, kw_only=True)
class TakedownResult:
    """What it took; `untouched_seconds` where the list matches nothing."""

    shards: int
    rows: int
    rows_taken_down: int
    shards_touched: int
    seconds: float
    untouched_seconds: float


def measure_takedown(bench: TakedownBench, *, say: Say) -> TakedownResult:
    """Make a run of four steps, take URLs down, then one that is nowhere."""
    with tempfile.TemporaryDirectory(prefix="bench-takedown-") as folder:
        store = RunStore(f"{folder}/run")
        run = MadeRun(
            store=store,
            folder=Path(folder),
            rows_per_shard=bench.rows_per_shard,
            steps=("download", "score", "select", "encode"),
        )
        run.make(bench.shards)
        urls = run.urls
        say(f"{len(urls):,} rows in {bench.shards:,} shards are made")
        chosen = urls[:: max(1, len(urls) // bench.urls)][: bench.urls]
        begin = time.perf_counter()
        done = take_down(store, tombstones_of(urls=chosen), say=say)
        seconds = time.perf_counter() - begin
        say(f"{done.num_rows:,} rows taken down in {seconds:.1f} s")
        begin = time.perf_counter()
        take_down(store, tombstones_of(urls=["https://nowhere.example/"]), say=say)
        return TakedownResult(
            shards=bench.shards,
            rows=len(urls),
            rows_taken_down=done.num_rows,
            shards_touched=done.num_shards,
            seconds=seconds,
            untouched_seconds=time.perf_counter() - begin,
        )


def takedown_table(result: TakedownResult) -> str:
    """One line."""
    return (
        f"{result.shards:,} shards of {result.rows // result.shards} rows, four steps: "
        f"{result.rows_taken_down:,} rows in {result.shards_touched:,} shards taken down in "
        f"{result.seconds:.1f} s; a list that matches nothing {result.untouched_seconds:.1f} s"
    )
