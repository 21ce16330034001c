"""How well the engine feeds its workers: on a real Ray of several raylets, with work that waits.

Ratios hold; seconds are of steps that sleep, and of many processes that start on one machine.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jobs.bench.engine_cluster import Node, add, raylets
from jobs.bench.engine_step import WaitingStep
from jobs.bench.engine_store import (
    MANY,
    WANTED_MB,
    WANTED_S,
    PhaseCost,
    at_many,
    measure_store,
)
from jobs.bench.gated_step import Span, read_spans
from jobs.bench.tables import text_table
from pipelines.engine.config import EngineConfig
from pipelines.engine.session import open_session
from pipelines.run.store import RunStore
from sd_core.say import Say

_LINEAR: Final = 1.2


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """One figure beside what is wanted of it, at most.

    Attributes:
        figures: What it comes from.
    """

    part: str
    what: str
    found: float
    wanted: float
    figures: Mapping[str, float]

    @property
    def is_good_enough(self) -> bool:
        """Whether it is what is wanted, or less."""
        return self.found <= self.wanted


def measure_engine(parts: Sequence[str], *, shards: Sequence[int], say: Say) -> list[EngineResult]:
    """Measure the parts that are named, of `PARTS` and (b).

    Args:
        shards: At least two sizes of runs, of (b).
    """
    results: list[EngineResult] = []
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="bench-engine-") as folder:
            say(f"engine ({part}) ...")
            if part == "b":
                results += _store(Path(folder), sorted(shards), say)
            else:
                results.append(PARTS[part](_Case(Path(folder))))
    return results


def _store(folder: Path, sizes: Sequence[int], say: Say) -> Iterator[EngineResult]:
    """What the driver does for each shard, on a store of 30 ms an operation."""
    found: dict[str, list[PhaseCost]] = {}
    for cost in measure_store(folder, sizes):
        say(f"{cost}")
        found.setdefault(cost.phase, []).append(cost)
    for phase, costs in found.items():
        yield EngineResult(
            part="b",
            what=f"{phase}: seconds at {MANY:,} shards",
            found=at_many(costs, lambda cost: cost.seconds),
            wanted=WANTED_S.get(phase, math.inf),
            figures={f"operations a shard of {c.shards:,}": c.per_shard for c in costs}
            | {"MB": at_many(costs, lambda cost: cost.peak_mb)},
        )
        yield EngineResult(
            part="b",
            what=f"{phase}: operations of a further shard, against one of the first",
            found=at_many(costs, lambda cost: cost.num_operations) / MANY / costs[0].per_shard,
            wanted=_LINEAR,
            figures={},
        )
    yield EngineResult(
        part="b",
        what=f"peak MB at {MANY:,} shards",
        found=max(at_many(costs, lambda cost: cost.peak_mb) for costs in found.values()),
        wanted=WANTED_MB,
        figures={},
    )


class _Case:
    """A folder for one part's runs.

    Args:
        folder: Empty, on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self,
        name: str,
        config: EngineConfig,
        *,
        shards: int,
        steps: Sequence[Mapping[str, Any]],
        downloads: bool = False,
    ) -> list[Span]:
        """Run a chain by a session's public door; returns every attempt."""
        notes = self.notes(name)
        store = RunStore(str(self.folder / name / "run"))
        with open_session(store, config, say=lambda _: None, downloads=downloads) as session:
            places = {"download": session.download_resources, "score": session.model_resources}
            chain = [
                WaitingStep(store=store, notes=notes, resources=places[step["name"]], **step)
                for step in steps
            ]
            session.run(chain, num_shards=shards)
        return read_spans(notes)

    def notes(self, name: str) -> Path:
        """Where a run's steps note their spans."""
        notes = self.folder / name / "notes"
        notes.mkdir(parents=True, exist_ok=True)
        return notes


def _starvation(case: _Case) -> EngineResult:
    """Ten downloaders feed one model worker a quarter more than it takes."""
    config = EngineConfig(download_workers=10, gpus=0, cpu_model_workers=1)
    with raylets([Node(cpus=4)] * 3):
        spans = case.run(
            "run",
            config,
            shards=48,
            downloads=True,
            steps=[  # four rounds of requests that are answered after a second
                {"name": "download", "wait_s": 4.0, "is_uneven": True, "gate": 10},
                {"name": "score", "wait_s": 0.5},
            ],
        )
    score = [span for span in spans if span.step == "score"]
    opened = [float(file.read_text()) for file in case.notes("run").glob("score-*.open")]
    first = min(span.end for span in spans if span.step == "download")
    begin, end = max(first, min(opened)), max(span.end for span in score)
    busy = sum(span.end - span.begin for span in score)
    return EngineResult(
        part="a",
        what="share of the time that the one model worker waits, of ten downloaders",
        found=1 - busy / (end - begin),
        wanted=0.1,
        figures={"seconds from the first shard": end - begin, "of work": busy},
    )


def _tail(case: _Case) -> EngineResult:
    """Of twenty workers one is ten times slower."""
    workers, shards, wait_s, slow_times = 20, 400, 1.5, 10.0
    config = EngineConfig(gpus=0, cpu_model_workers=workers)
    with raylets([Node(cpus=5)] * 4):
        spans = case.run(
            "run",
            config,
            shards=shards,
            steps=[{"name": "score", "wait_s": wait_s, "gate": workers, "slow_times": slow_times}],
        )
    done = sorted(_done(spans).values())
    last = shards // 20
    share = shards * wait_s / (workers - 1 + 1 / slow_times) / 20
    took = done[-1] - done[-1 - last]
    return EngineResult(
        part="c",
        what="the last 5% of the shards, of their share; one of twenty workers is ten times slower",
        found=took / share,
        wanted=3.0,
        figures={"seconds of the last 5%": took, "their share": share, "attempts": len(spans)},
    )


def _join(case: _Case) -> EngineResult:
    """A run begins on one node, and three more come at a third of the way."""
    shards, wait_s, node = 80, 1.0, Node(cpus=2, gpus=1)
    config = EngineConfig(gpus="auto")
    step = {"name": "score", "wait_s": wait_s}
    with raylets([node] * 4):
        spans = case.run("four", config, shards=shards, steps=[{**step, "gate": 4}])
    four = max(span.end for span in spans) - min(span.begin for span in spans)
    with raylets([node]) as cluster, ThreadPoolExecutor(1) as pool:
        run = pool.submit(case.run, "join", config, shards=shards, steps=[step])
        joined = []
        while not run.done() and len(list(case.notes("join").glob("*.span"))) < shards // 3:
            time.sleep(0.1)
        for _ in range(3):
            add(cluster, node)
            joined.append(time.time())
        spans = run.result()
    begin, end = min(span.begin for span in spans), max(span.end for span in spans)
    ideal = ideal_seconds(shards * wait_s, [time - begin for time in joined])
    return EngineResult(
        part="d",
        what="one node, and three more at a third of the way, of the ideal of the nodes present",
        found=(end - begin) / ideal,
        wanted=1.25,
        figures={
            "seconds": end - begin,
            "ideal": ideal,
            "workers": len({span.pid for span in spans}),
            "seconds of four nodes from the start": four,
            "their ideal": shards * wait_s / 4,
        },
    )


def ideal_seconds(work_s: float, joined: Sequence[float]) -> float:
    """How long so much work takes one worker, and one more from each of the times on. Unit: s."""
    now, workers = 0.0, 1
    for time_s in [*sorted(joined), float("inf")]:
        if (need := work_s / workers) <= time_s - now:
            return now + need
        work_s -= (time_s - now) * workers
        now, workers = time_s, workers + 1
    raise AssertionError("time without end is enough")


def _done(spans: Sequence[Span]) -> dict[int, float]:
    """When each shard was first done."""
    done: dict[int, float] = {}
    for span in spans:
        done[span.shard_id] = min(span.end, done.get(span.shard_id, span.end))
    return done


def engine_table(results: Sequence[EngineResult]) -> str:
    """What was found beside what is wanted, and under it what it comes from."""
    rows = [
        [
            f"({result.part}) {result.what}",
            f"{result.found:.2f}",
            f"{result.wanted:.2f}",
            "yes" if result.is_good_enough else "NO",
        ]
        for result in results
    ]
    notes = [f"({result.part}) {_spell(result.figures)}" for result in results]
    return "\n".join([text_table(["part", "found", "at most", "holds"], rows), *notes])


def _spell(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())


PARTS: Final[Mapping[str, Callable[[_Case], EngineResult]]] = {
    "a": _starvation,
    "c": _tail,
    "d": _join,
}
