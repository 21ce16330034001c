"""A ledger of 1,000,000 rows cut anew, five rules and exact copies: ours beside DuckDB's SQL."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import duckdb

from jobs.bench.ledger_case import LedgerCase, make_facts
from jobs.bench.peer_part import PeerResult, PeersBench
from jobs.bench.process_memory import own_peak_bytes
from jobs.bench.select import cut_ledger

_ROWS: Final = 1_000_000
_CUT: Final = "rules, exact"
_MOST_TIMES: Final = 1.2
_MOST_MEMORY: Final = 0.5

_SQL: Final = r"""
SET enable_progress_bar = false;
CREATE VIEW facts AS SELECT * FROM read_parquet('{facts}');
CREATE VIEW scores AS SELECT * EXCLUDE (key) FROM read_parquet('{scores}');
CREATE TEMP TABLE verdicts AS
WITH ruled AS MATERIALIZED (
    SELECT f.shard_id, f.row, f.key, f.url, f.sha256, s.aesthetic_v2,
        CASE WHEN f.reason IS NOT NULL THEN f.reason
            WHEN s.aesthetic_v2 IS NULL OR s.punsafe IS NULL THEN 'value_missing'
            WHEN s.aesthetic_v2 < 4.5 THEN 'aesthetic_v2_below_min'
            WHEN s.punsafe > 0.5::FLOAT THEN 'punsafe_above_max'
            WHEN least(f.original_width, f.original_height) >= 200 THEN NULL
            ELSE 'condition_not_met' END AS reason
    FROM facts f LEFT JOIN scores s USING (shard_id, row)
), best AS MATERIALIZED (
    SELECT * EXCLUDE (reason), CASE WHEN
        row_number() OVER (ORDER BY aesthetic_v2 DESC, key) > ceil(0.8 * count(*) OVER ())
        THEN 'ranked_below_best' END AS reason
    FROM ruled WHERE reason IS NULL
), capped AS MATERIALIZED (
    SELECT * EXCLUDE (reason), CASE WHEN row_number() OVER (
        PARTITION BY regexp_extract(url, '^https?://(?:www\.)?([^/:?#]+)', 1)
        ORDER BY aesthetic_v2 DESC, key) > 10000 THEN 'domain_over_cap' END AS reason
    FROM best WHERE reason IS NULL
), urls AS MATERIALIZED (
    SELECT * EXCLUDE (reason), CASE WHEN row_number() OVER (
        PARTITION BY url ORDER BY aesthetic_v2 DESC, shard_id, row) > 1
        THEN 'duplicate_url' END AS reason
    FROM capped WHERE reason IS NULL
), bytes AS MATERIALIZED (
    SELECT * EXCLUDE (reason), CASE WHEN row_number() OVER (
        PARTITION BY sha256 ORDER BY aesthetic_v2 DESC, shard_id, row) > 1
        THEN 'duplicate_bytes' END AS reason
    FROM urls WHERE reason IS NULL
)
SELECT shard_id, row, reason FROM ruled WHERE reason IS NOT NULL
UNION ALL SELECT shard_id, row, reason FROM best WHERE reason IS NOT NULL
UNION ALL SELECT shard_id, row, reason FROM capped WHERE reason IS NOT NULL
UNION ALL SELECT shard_id, row, reason FROM urls WHERE reason IS NOT NULL
UNION ALL SELECT shard_id, row, reason FROM bytes;
COPY (
    SELECT f.* REPLACE (v.reason AS reason), s.* EXCLUDE (shard_id, row), v.reason IS NULL AS kept
    FROM facts f JOIN verdicts v USING (shard_id, row) LEFT JOIN scores s USING (shard_id, row)
) TO '{ledger}' (FORMAT parquet, COMPRESSION zstd);
"""


@dataclass(frozen=True)
class _Cost:
    """Of one cut, in a process of its own."""

    seconds: float
    peak_bytes: int
    kept: int


def measure_recut(bench: PeersBench) -> list[PeerResult]:
    """The rules and copies of `jobs.bench select`, each cut in a process of its own; both sides
    keep as many rows, and DuckDB may write its ledger in any order, in one file."""
    with tempfile.TemporaryDirectory(prefix="bench-recut-") as folder:
        rows = bench.sized(_ROWS, least=10_000)
        case = make_facts(Path(folder) / "run", num_rows=rows, metadata=bench.metadata)
        sides = {"ours": partial(_ours, case), "DuckDB": partial(_duckdb, case)}
        found: dict[str, list[_Cost]] = {name: [] for name in sides}
        for turn in range(bench.repeats + 1):
            for name, cut in sides.items():
                cost = _apart(cut)
                if turn or not bench.repeats:
                    found[name].append(cost)
    if len({cost.kept for costs in found.values() for cost in costs}) > 1:
        raise RuntimeError("re-cut: the two sides keep other numbers of rows")
    seconds = {name: statistics.median(c.seconds for c in costs) for name, costs in found.items()}
    peak = {name: max(c.peak_bytes for c in costs) for name, costs in found.items()}
    return [
        PeerResult(
            part="re-cut",
            peer="DuckDB",
            unit="rows",
            amount=rows,
            our_seconds=seconds["ours"],
            peer_seconds=seconds["DuckDB"],
            min_ratio=1 / _MOST_TIMES,
            our_bytes=peak["ours"],
            peer_bytes=peak["DuckDB"],
            max_memory_ratio=_MOST_MEMORY,
        )
    ]


def _apart(cut: Callable[[], _Cost]) -> _Cost:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(cut).result()


def _ours(case: LedgerCase) -> _Cost:
    shutil.rmtree(case.store.absolute("manifests/select"), ignore_errors=True)
    found = cut_ledger(_CUT, case)
    return _Cost(found.seconds, found.peak_bytes, found.kept)


def _duckdb(case: LedgerCase) -> _Cost:
    ledger = Path(case.store.root).parent / "ledger.parquet"
    told = {step: case.store.absolute(f"facts/{step}/*.parquet") for step in ("download", "score")}
    begin = time.perf_counter()
    with duckdb.connect() as database:
        database.execute(_SQL.format(facts=told["download"], scores=told["score"], ledger=ledger))
        seconds = time.perf_counter() - begin
        [(kept,)] = database.execute(
            "SELECT count(*) FROM verdicts WHERE reason IS NULL"
        ).fetchall()
    return _Cost(seconds, own_peak_bytes(), kept)
