"""The whole curate job on Ray beside its steps, each alone and in this process.

Start-up is left out everywhere in the same way: a step's clock starts when its worker is open
(models loaded, processes and connections up), a chain's when all its workers are.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.bench.curate_case import Models, curate_config, curate_settings, write_photo_list
from jobs.bench.gated_step import chain_seconds, gate
from jobs.bench.timed_server import serve
from pipelines.engine.session import open_session
from pipelines.plan import make_plan
from pipelines.run.record import complete_step
from pipelines.run.store import RunStore
from pipelines.sources import Source
from pipelines.steps.kinds import STEP_KINDS, later_steps
from pipelines.steps.step import Resources
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from sd_core.say import Say

_CHAINS = (("download", "score"), ("encode",))


@dataclass(frozen=True, kw_only=True)
class CurateBench:
    """What to measure.

    Attributes:
        delay_s: How long the server waits before each answer.
        repeats: Times that each side is measured; the fastest counts.
    """

    name: str
    models: Models
    photos: Path
    num_rows: int
    rows_per_shard: int
    threads: int
    delay_s: float
    repeats: int


@dataclass(frozen=True, kw_only=True)
class CurateResult:
    """Seconds of each step alone, and of the whole.

    Attributes:
        alone: By step, in order. Download alone is one worker; it runs without the delay.
        whole: All of them on Ray, two download workers and one model worker.
        whole_by_chain: Of `whole`: download with score, select, encode.
    """

    name: str
    models: Models
    num_rows: int
    delay_s: float
    alone: dict[str, float]
    whole: float
    whole_by_chain: dict[str, float]

    @property
    def to_sum(self) -> float:
        """The whole over the sum of its steps."""
        return self.whole / sum(self.alone.values())

    @property
    def to_model_work(self) -> float:
        """The whole over score and encode alone."""
        return self.whole / (self.alone["score"] + self.alone["encode"])


def measure_curate(bench: CurateBench, *, say: Say) -> CurateResult:
    """Measure one job.

    Raises:
        FileNotFoundError: no photographs.
        EngineError, ShardError, WeightsError: see their messages.
    """
    alone: list[dict[str, float]] = []
    whole: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for turn in range(bench.repeats):
            place = Path(folder) / str(turn)
            alone.append(_run(replace(bench, delay_s=0.0), place / "alone", _steps_alone))
            say(f"{bench.name}: each step alone: {_spell(alone[-1])}")
            whole.append(_run(bench, place / "whole", _whole_on_ray))
            say(f"{bench.name}: the whole on Ray: {_spell(whole[-1])}")
    fastest = min(whole, key=lambda seconds: sum(seconds.values()))
    return CurateResult(
        name=bench.name,
        models=bench.models,
        num_rows=bench.num_rows,
        delay_s=bench.delay_s,
        alone={step: min(seconds[step] for seconds in alone) for step in alone[0]},
        whole=sum(fastest.values()),
        whole_by_chain=fastest,
    )


def _run(
    bench: CurateBench, folder: Path, measure: Callable[[CurateConfig, Path], dict[str, float]]
) -> dict[str, float]:
    folder.mkdir(parents=True)
    url_list = folder / "list.parquet"
    with serve(bench.photos, delay_s=bench.delay_s) as server:
        write_photo_list(url_list, url=server.url, photos=bench.photos, num_rows=bench.num_rows)
        settings: dict[str, Any] = curate_settings(
            models=bench.models,
            url_list=url_list,
            output=folder / "run",
            rows_per_shard=bench.rows_per_shard,
        )
        settings["download"] |= {"threads": bench.threads, "max_per_host": bench.threads}
        return measure(curate_config(settings), folder)


def _steps_alone(config: CurateConfig, folder: Path) -> dict[str, float]:
    """Seconds of each step, in this process, one after the other."""
    store, job = _plan(config)
    seconds: dict[str, float] = {}
    for name in ("download", "score", "select", "encode"):
        if name == "select":
            seconds[name] = _select(store, job)
            continue
        step = job.shard_step(name, Resources())
        step.open()
        try:
            begin = time.time()
            for shard_id in range(job.num_shards(name)):
                step.run(shard_id)
            seconds[name] = time.time() - begin
        finally:
            step.close()
    return seconds


def _whole_on_ray(config: CurateConfig, folder: Path) -> dict[str, float]:
    """Seconds of each chain, as `curate` runs them."""
    store, job = _plan(config)
    seconds: dict[str, float] = {}
    with open_session(store, config.engine, say=lambda line: None) as session:
        workers = {"download": session.download_resources}
        for chain in _CHAINS:
            steps = [
                job.shard_step(name, workers.get(name, session.model_resources)) for name in chain
            ]
            name = " + ".join(chain)
            gates = folder / name.replace(" + ", "-")
            session.run(gate(steps, gates), num_shards=job.num_shards(chain[0]))
            seconds[name] = chain_seconds(gates)
            if "score" in chain:
                seconds["select"] = _select(store, job)
    return seconds


def _plan(config: CurateConfig) -> tuple[RunStore, CurateSteps]:
    store, source = RunStore(config.output), Source(config.source)
    plan = make_plan(source, config.plan, store=store)
    return store, CurateSteps(config, store, source, plan)


def _select(store: RunStore, job: CurateSteps) -> float:
    """Complete the steps before it, as the job does, and select; returns the seconds."""
    begin = time.time()
    for step in ("download", "score"):
        _complete(store, job, step)
    job.select(lambda line: None).run(lambda manifest: None)
    _complete(store, job, "select")
    return time.time() - begin


def _complete(store: RunStore, job: CurateSteps, step: str) -> None:
    complete_step(
        store,
        job.identities[step],
        num_shards=job.num_shards(step),
        folders=STEP_KINDS[step].paths,
        later=later_steps(step),
    )


def _spell(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
