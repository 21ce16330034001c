"""How long it takes to tell why one row of a large run is there, and each command's `--help`."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.__main__ import COMMANDS
from jobs.bench.ledger_case import ROWS_PER_SHARD, LedgerCase, make_facts
from jobs.bench.select import cut_identity, cut_ledger
from pipelines.plan import PlanConfig, make_plan
from pipelines.revisions.takedown import take_down
from pipelines.rules.tombstones import tombstones_of
from pipelines.run.reader import open_run
from pipelines.run.record import complete_step
from pipelines.run.recorded_options import check_or_record
from pipelines.sources import Source, SourceConfig
from pipelines.steps.kinds import STEP_KINDS
from sd_core.say import Say

_CUT: Final = "rules, exact"
_WHY_LIMIT_S, _HELP_LIMIT_S = 2.0, 1.0


@dataclass(frozen=True, kw_only=True)
class WhyResult:
    """One command in a process of its own, from its start to its end; `code` is its exit code.

    Attributes:
        cpu_seconds: What it worked, whoever else used the machine meanwhile.
    """

    asked: str
    seconds: float
    cpu_seconds: float
    code: int
    limit_s: float

    @property
    def is_good_enough(self) -> bool:
        """Whether it is as quick as was promised."""
        return self.seconds < self.limit_s


def measure_why(num_rows: int, metadata: Path, *, say: Say) -> list[WhyResult]:
    """Ask for rows of two made runs, the last of each kind, by URL; then for every `--help`."""
    results = []
    for origin in ("download", "generate"):
        with tempfile.TemporaryDirectory(prefix="bench-why-") as folder:
            case = make_facts(
                Path(folder) / "run", num_rows=num_rows, metadata=metadata, origin=origin
            )
            cut_ledger(_CUT, case)
            _record(case, Path(folder))
            say(f"{num_rows:,} rows in {case.num_shards} shards are made by {origin} and cut")
            for kind, row in _rows_asked_for(case, say):
                results.append(_timed(kind, ["why", case.store.root, row], limit_s=_WHY_LIMIT_S))
    helps = (_timed(f"{name} --help", [name, "--help"], limit_s=_HELP_LIMIT_S) for name in COMMANDS)
    return [*results, *helps]


def _record(case: LedgerCase, folder: Path) -> None:
    """Make a run of what was committed: its plan, its records, its steps."""
    steps = (case.images, case.score, cut_identity(_CUT, case))
    job = "generate" if case.images.step == "generate" else "curate"
    if job == "curate":
        urls = _column(case, "url")
        pq.write_table(pa.table({"url": urls, "caption": urls}), folder / "list.parquet")
        source = Source(SourceConfig(path=str(folder / "list.parquet")))
        make_plan(source, PlanConfig(rows_per_shard=ROWS_PER_SHARD), store=case.store)
    check_or_record(case.store, steps, job={"job": job, "config": {}})
    for step in steps:
        folders = STEP_KINDS[step.step].paths
        complete_step(case.store, step, num_shards=case.num_shards, folders=folders, later=())


def _column(case: LedgerCase, name: str) -> pa.ChunkedArray:
    run = open_run(case.store.root)
    return pa.concat_tables(run.read_table(entry, [name]) for entry in run.files("ledger"))[name]


def _rows_asked_for(case: LedgerCase, say: Say) -> Iterator[tuple[str, str]]:
    """Kinds of rows as far behind in the run as there are; nothing is found sooner by luck."""
    urls = _last_of_each_kind(case)
    if case.images.step == "generate":
        yield "a generated image", urls["a kept row"]
        return
    yield from urls.items()
    yield "a row that is none", "https://nowhere.example/1.jpg"
    gone = urls["a kept row"]
    take_down(case.store, tombstones_of(urls=[gone]), say=say)
    yield "a row that was taken down", gone


def _last_of_each_kind(case: LedgerCase) -> dict[str, str]:
    found: dict[str, str] = {}
    run = open_run(case.store.root)
    for entry in run.files("ledger"):
        table = run.read_table(entry, ["url", "kept", "reason"])
        kinds = {
            "a kept row": table["kept"],
            "a dropped row": pc.equal(table["reason"], "http_not_found"),
            "a duplicate": pc.equal(table["reason"], "duplicate_bytes"),
        }
        for kind, is_of in kinds.items():
            rows = table.filter(pc.fill_null(is_of, False))
            if rows.num_rows:
                found[kind] = rows["url"][-1].as_py()
    return found


def _timed(asked: str, arguments: list[str], *, limit_s: float) -> WhyResult:
    begin, cpu_begin = time.perf_counter(), _cpu_seconds()
    command = [sys.executable, "-m", "jobs", *arguments]
    code = subprocess.run(command, capture_output=True, check=False).returncode
    return WhyResult(
        asked=asked,
        seconds=time.perf_counter() - begin,
        cpu_seconds=_cpu_seconds() - cpu_begin,
        code=code,
        limit_s=limit_s,
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def why_table(results: list[WhyResult]) -> str:
    """The results as a table."""
    width = max(len(result.asked) for result in results)
    return "\n".join(
        f"{result.asked:<{width}}  {result.seconds:6.2f} s ({result.cpu_seconds:.2f} s of CPU)  "
        f"exit code {result.code}"
        + ("" if result.is_good_enough else f"  NOT BELOW {result.limit_s:g} s")
        for result in results
    )
