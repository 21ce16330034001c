"""How long it takes to tell why one row of a large run is there, and each command's `--help`."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from jobs.__main__ import COMMANDS
from jobs.bench.ledger_case import DOWNLOAD, LedgerCase, make_facts
from jobs.bench.select import cut_ledger
from pipelines.run.reader import open_run
from pipelines.run.record import write_run
from sd_core.say import Say

_CUT = "rules, exact"


@dataclass(frozen=True, kw_only=True)
class WhyResult:
    """One command in a process of its own, from its start to its end."""

    asked: str
    seconds: float


def measure_why(num_rows: int, metadata: Path, *, say: Say) -> list[WhyResult]:
    """Ask for rows of a made ledger, the last of each kind, by URL; then for every `--help`."""
    with tempfile.TemporaryDirectory(prefix="bench-why-") as folder:
        case = make_facts(Path(folder) / "run", num_rows=num_rows, metadata=metadata)
        cut_ledger(_CUT, case)
        write_run(case.store, {"job": "curate", "steps": {"download": {"fingerprint": DOWNLOAD}}})
        say(f"{num_rows:,} rows in {case.num_shards} shards are made and cut")
        asked = _rows_of_each_kind(case)
        results = [_timed(kind, ["why", case.store.root, url]) for kind, url in asked.items()]
    return results + [_timed(f"{name} --help", [name, "--help"]) for name in COMMANDS]


def _rows_of_each_kind(case: LedgerCase) -> dict[str, str]:
    """URLs of rows as far behind in the run as there are; nothing is found sooner by luck."""
    run = open_run(case.store.root)
    found: dict[str, str] = {}
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
    return {**found, "a row that is none": "https://nowhere.example/1.jpg"}


def _timed(asked: str, arguments: list[str]) -> WhyResult:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs", *arguments], capture_output=True, check=False)
    return WhyResult(asked=asked, seconds=time.perf_counter() - begin)


def why_table(results: list[WhyResult]) -> str:
    """The results as a table."""
    width = max(len(result.asked) for result in results)
    return "\n".join(f"{result.asked:<{width}}  {result.seconds:6.2f} s" for result in results)
