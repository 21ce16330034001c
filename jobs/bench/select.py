"""Re-cutting a ledger: five rules and duplicates over rows whose facts are there."""

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.bench.ledger_case import LedgerCase, make_facts
from jobs.bench.process_memory import own_peak_bytes
from pipelines.config import validate_config
from pipelines.run.committed import Committed
from pipelines.run.record import StepIdentity, complete_step
from pipelines.run.store import RunStore
from pipelines.steps.select import Select, SelectConfig
from sd_core.say import Say

_RULES: dict[str, Any] = {
    "rules": [
        {"column": "aesthetic_v2", "min": 4.5},
        {"column": "punsafe", "max": 0.5},
        {"sql": "least(original_width, original_height) >= 200", "name": "shorter side"},
        {"best_of": {"by": "aesthetic_v2", "fraction": 0.8}},
        {"domain_cap": {"num_images": 10_000, "by": "aesthetic_v2"}},
    ],
}
_PERCEPTUAL = {"by": ["url", "sha256", "phash"]}
CUTS: dict[str, dict[str, Any]] = {
    "rules, exact": {**_RULES, "duplicates": {"by": ["url", "sha256"], "keep": "aesthetic_v2"}},
    "perceptual, distance 4": {"duplicates": {**_PERCEPTUAL, "phash_distance": 4}},
    "perceptual, distance 9": {"duplicates": {**_PERCEPTUAL, "phash_distance": 9}},
}
"""No rule comes before the perceptual ones, so that every stored row is compared."""


@dataclass(frozen=True, kw_only=True)
class SelectBench:
    """How many rows, smaller first, and where real sizes are."""

    rows: tuple[int, ...]
    metadata: Path


@dataclass(frozen=True, kw_only=True)
class SelectResult:
    """One cut, in a process of its own: the ledger written and made current."""

    cut: str
    num_rows: int
    seconds: float
    peak_bytes: int
    kept: int
    dropped: dict[str, int]


def measure_select(bench: SelectBench, *, say: Say) -> list[SelectResult]:
    """Make the facts of each size, and cut them in each way."""
    results = []
    for num_rows in bench.rows:
        with tempfile.TemporaryDirectory(prefix="bench-select-") as folder:
            case = make_facts(Path(folder) / "run", num_rows=num_rows, metadata=bench.metadata)
            say(f"{num_rows:,} rows of facts in {case.num_shards} shards are made")
            for cut in CUTS:
                results.append(_in_own_process(cut, case))
                found = results[-1]
                say(f"{cut}: {found.seconds:.1f} s, {found.peak_bytes / 1e9:.2f} GB")
    return results


def _in_own_process(cut: str, case: LedgerCase) -> SelectResult:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(cut_ledger, cut, case).result()


def cut_ledger(cut: str, case: LedgerCase) -> SelectResult:
    """Cut a made ledger in one of `CUTS`, in this process."""
    config = validate_config(SelectConfig, CUTS[cut], where=cut)
    store, identity = RunStore(case.store.root), cut_identity(cut, case)
    begin = time.perf_counter()
    Select(
        store=store,
        fingerprint=identity.fingerprint,
        config=config,
        num_shards=case.num_shards,
        images=Committed(store, case.images.step, case.images.fingerprint),
        score=Committed(store, "score", case.score.fingerprint),
        read_rows=_no_rows,
    ).run(lambda manifest: None)
    summary = complete_step(
        store, identity, num_shards=case.num_shards, folders=("ledger",), later=()
    )
    seconds = time.perf_counter() - begin
    return SelectResult(
        cut=cut,
        num_rows=case.num_rows,
        seconds=seconds,
        peak_bytes=own_peak_bytes(),
        kept=summary.kept,
        dropped=dict(summary.dropped),
    )


def cut_identity(cut: str, case: LedgerCase) -> StepIdentity:
    """What such a cut is recorded as."""
    config = validate_config(SelectConfig, CUTS[cut], where=cut)
    return StepIdentity(
        step="select",
        options={"select": config.identity()},
        parents=(case.images.fingerprint, case.score.fingerprint),
    )


def _no_rows(shard_id: int) -> pa.Table:
    raise AssertionError("no shard of a made ledger is quarantined")
