"""What the driver does for each shard, at 30 ms an operation on storage: linear, and how long?"""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv

from jobs.bench.counted_store import PROTOCOL, CountedStore
from jobs.bench.made_run import commit_made, record_made_cache
from jobs.bench.process_memory import own_peak_bytes
from pipelines.config import load_config
from pipelines.plan import PlanConfig, load_plan, make_plan, read_rows
from pipelines.revisions.clean import clean_run
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.on_threads import in_order
from pipelines.run.recorded_options import check_or_record
from pipelines.run.store import RunStore
from pipelines.sources import Source
from pipelines.verify import Fault, verify_run
from pipelines.workflows.curate import curate
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from pipelines.workflows.job import complete

DELAY_S: Final = 0.03
MANY: Final = 100_000
WANTED_S: Final[Mapping[str, float]] = {
    "no-op": 30,
    "finish": 120,
    "resume": 120,
    "re-cut": 900,
    "takeover": 300,
}
"""At `MANY` shards; of the other phases the time is only told."""
WANTED_MB: Final = 2_000
_ROWS_PER_SHARD: Final = 10
_GONE: Final = 10
_BEFORE_THE_CUT: Final = ("download", "score")


@dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """What a phase took of a run of so many shards."""

    phase: str
    shards: int
    seconds: float
    cpu_s: float
    peak_mb: float
    operations: Mapping[str, int]

    @property
    def num_operations(self) -> int:
        """Of any kind."""
        return sum(self.operations.values())

    @property
    def per_shard(self) -> float:
        """Operations."""
        return self.num_operations / self.shards

    def __str__(self) -> str:
        told = ", ".join(f"{name} {count:,}" for name, count in self.operations.items())
        return (
            f"{self.phase} of {self.shards:,} shards: {self.seconds:.1f} s, {self.cpu_s:.1f} s of "
            f"CPU, {self.peak_mb:,.0f} MB, {self.per_shard:.2f} operations a shard ({told})"
        )


@dataclass(frozen=True)
class StoreCase:
    """A run of many shards in a local folder, seen as on a store.

    Args:
        folder: Empty at first.
        shards: How many.
        delay_s: Of each operation.
    """

    folder: Path
    shards: int
    delay_s: float = 0.0

    @property
    def store(self) -> RunStore:
        """The run."""
        return RunStore(f"{PROTOCOL}://{self.folder}/run", {"delay_s": self.delay_s})

    def config(self, cut: int = 0) -> CurateConfig:
        """Of the job; every cut keeps all rows, by another rule."""
        told = {
            "source.path": self.folder / "list.csv",
            "output": self.store.root,
            "storage_options": f'{{"delay_s": {self.delay_s}}}',
            "plan.rows_per_shard": _ROWS_PER_SHARD,
            "engine.runner": "local",
            "select": f'{{"rules": [{{"column": "width", "min": {1 + cut}}}]}}',
        }
        demo = Path(__file__).resolve().parents[2] / "configs/curate/demo.yaml"
        given = [f"{name}={value}" for name, value in told.items()]
        return load_config(CurateConfig, demo, overrides=given)

    @cached_property
    def job(self) -> CurateSteps:
        """The steps of the first cut."""
        config = self.config()
        return CurateSteps(config, self.store, Source(config.source), load_plan(self.store))

    def make(self) -> None:
        """The run with all of its steps; select's is real, and no model has run."""
        urls = [f"https://host-{n % 997}.example/{n}.jpg" for n in range(self.num_rows)]
        captions = [f"picture {n}" for n in range(len(urls))]
        pa.csv.write_csv(pa.table({"url": urls, "caption": captions}), self.folder / "list.csv")
        config = self.config()
        source = Source(config.source)
        make_plan(source, PlanConfig(rows_per_shard=_ROWS_PER_SHARD), store=self.store)
        told = {"job": "curate", "config": self.job.public_config}
        check_or_record(self.store, self.job.identities.values(), job=told)
        record_made_cache(self.job.committed("encode"))
        self._make(_BEFORE_THE_CUT)
        curate(config, steps=[*_BEFORE_THE_CUT, "select"], say=_nobody)
        self._make(("publish", "encode"))
        curate(config, say=_nobody)

    @property
    def num_rows(self) -> int:
        """Of the list."""
        return self.shards * _ROWS_PER_SHARD

    def lose(self, *patterns: str) -> None:
        """Remove files of the run."""
        for pattern in patterns:
            for path in (self.folder / "run").glob(pattern):
                path.unlink()

    def _make(self, steps: Sequence[str]) -> None:
        job = self.job
        source, made = Source(self.config().source), {name: job.committed(name) for name in steps}

        def work(shard_id: int) -> Any:
            rows = read_rows(job.plan, self.store, source, shard_id)
            kept = [True] * rows.num_rows
            return commit_made(made, shard_id, rows, kept, inputs=job.inputs)

        for manifests in in_order(work, range(self.shards), num_threads=4):
            for manifest in manifests:
                job.keep(manifest)


def _nobody(line: str) -> None: ...


def _plan(case: StoreCase) -> None:
    store = RunStore(f"{PROTOCOL}://{case.folder}/planned", {"delay_s": case.delay_s})
    source = Source(case.config().source)
    make_plan(source, PlanConfig(rows_per_shard=_ROWS_PER_SHARD), store=store)


def _no_op(case: StoreCase) -> None:
    curate(case.config(), say=_nobody)


def _finish(case: StoreCase) -> None:
    complete(case.job, "download", say=_nobody)


def _re_cut(case: StoreCase) -> None:
    curate(case.config(cut=1), steps=["select"], say=_nobody)


def _take_over(case: StoreCase) -> None:
    curate(case.config(cut=1), steps=["publish", "encode"], say=_nobody)


def _verify(case: StoreCase) -> None:
    faults = [found for found in verify_run(case.store, deep=False) if isinstance(found, Fault)]
    assert not faults, faults[:3]


def _take_down(case: StoreCase) -> None:
    urls = [f"https://host-{n % 997}.example/{n}.jpg" for n in range(case.num_rows)]
    chosen = urls[:: max(1, len(urls) // _GONE)][:_GONE]
    done = take_down(case.store, tombstones_of(urls=chosen), say=_nobody)
    assert done.num_rows == _GONE, done


def _clean(case: StoreCase) -> None:
    clean_run(case.store, grace_s=0, now_s=time.time(), say=_nobody)


PHASES: Final[Mapping[str, Callable[[StoreCase], None]]] = {
    "plan": _plan,
    "no-op": _no_op,
    "finish": _finish,
    "resume": _no_op,
    "re-cut": _re_cut,
    "takeover": _take_over,
    "verify": _verify,
    "takedown": _take_down,
    "clean": _clean,
}
"""In this order: each finds the run as the one before has left it."""
_LOST: Final[Mapping[str, Sequence[str]]] = {
    "finish": ("revision.json", "_work/manifests/download/*/log-*"),
    "resume": ("revision.json",),
}
"""What is lost before a phase: the job that goes on has to find it again."""


def measure_store(folder: Path, sizes: Sequence[int]) -> Iterator[PhaseCost]:
    """Every phase of runs of these sizes, each in a process of its own."""
    for shards in sizes:
        case = StoreCase(folder / f"{shards}", shards)
        case.folder.mkdir()
        _apart(partial(_made, case))
        for phase in PHASES:
            case.lose(*_LOST.get(phase, ()))
            yield _apart(partial(_cost, phase, StoreCase(case.folder, shards, DELAY_S)))


def _made(case: StoreCase) -> PhaseCost:
    case.make()
    told = {"seconds": 0.0, "cpu_s": 0.0, "peak_mb": 0.0}
    return PhaseCost(phase="make", shards=case.shards, operations={}, **told)


def _cost(phase: str, case: StoreCase) -> PhaseCost:
    begin, cpu = time.perf_counter(), time.process_time()
    PHASES[phase](case)
    seconds = time.perf_counter() - begin
    store = case.store.filesystem
    assert isinstance(store, CountedStore)
    return PhaseCost(
        phase=phase,
        shards=case.shards,
        seconds=seconds,
        cpu_s=time.process_time() - cpu,
        peak_mb=own_peak_bytes() / 1024**2,
        operations=dict(Counter(store.counts)),
    )


def _apart(work: Callable[[], PhaseCost]) -> PhaseCost:
    with multiprocessing.get_context("spawn").Pool(1, os.nice, (0,)) as pool:
        return pool.apply(work)


def at_many(costs: Sequence[PhaseCost], figure: Callable[[PhaseCost], float]) -> float:
    """What a figure of a phase comes to at `MANY` shards, by the line through the two largest."""
    few, many = costs[-2:]
    slope = (figure(many) - figure(few)) / (many.shards - few.shards)
    return figure(many) + slope * (MANY - many.shards)
