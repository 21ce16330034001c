"""What the page offers to filter, sort and move: the run's columns, reasons and values."""

from typing import Any, Final

import numpy as np

from pipelines.browse.cuts import Cuts
from pipelines.browse.table import PLACE, RULE, STEP, RowsTable
from pipelines.report.status import last_activity_of
from pipelines.run.record import read_run

_BINS: Final = 40
_OUTER: Final = 0.005


def describe_run(table: RowsTable, cuts: Cuts) -> dict[str, Any]:
    """The run in words and numbers, for the page's head and its choices."""
    run, record = table.run, read_run(table.run.store)
    reasons = table.dicts(
        f"SELECT {STEP} AS step, reason, {RULE} AS rule, count(*) AS rows FROM rows "
        "WHERE reason IS NOT NULL GROUP BY ALL ORDER BY 4 DESC, 1, 2, 3"
    )
    [(kept, copies)] = table.ask(
        "SELECT count(*) FILTER (kept), count(*) FILTER (duplicate_of IS NOT NULL) FROM rows"
    )
    return {
        "run": run.path,
        "name": run.path.rstrip("/").rpartition("/")[2],
        "job": record.get("job", "curate"),
        "revision": run.revision.number,
        "cut": run.step("select").fingerprint,
        "made": last_activity_of(run.store),
        "rows": table.num_rows,
        "kept": kept,
        "copies": copies,
        "is_generated": run.origin == "generate",
        "models": record.get("models") or {},
        "reasons": reasons,
        "scores": table.scores,
        "columns": [
            {"name": name, "kind": "number" if table.is_number(name) else "text"}
            for name in table.types
            if not name.startswith("__")
        ],
        "bounds": [
            {"column": column, "bound": bound, "value": value}
            for column, bound, value in cuts.rules.bounds()
            if column in table.types
        ],
        "unsettled": cuts.rules.unsettled(),
        "steps": cuts.rules.steps(),
    }


def describe_column(table: RowsTable, name: str) -> dict[str, Any]:
    """Where a column's values lie: the range that holds all but the outer hundredth, and how many
    kept and dropped rows each of its parts has; the outer parts hold what lies beyond."""
    number = f"CAST({table.number(name)} AS DOUBLE)"
    [(least, most, low, high)] = table.ask(
        f"SELECT min(v), max(v), quantile_cont(v, ?::DOUBLE), quantile_cont(v, ?::DOUBLE) "
        f"FROM (SELECT {number} AS v FROM rows)",
        [_OUTER, 1 - _OUTER],
    )
    if least is None:
        return {"column": name, "low": None, "high": None, "kept": [], "dropped": []}
    low, high = (least, most) if low == high else (low, high)
    parts = (
        f"least(greatest(floor(({number} - ?) / ? * {_BINS}), 0), {_BINS - 1})"
        if high > low
        else "0 * ? * ?"
    )
    counts = np.zeros((2, _BINS), np.int64)
    for part, kept, rows in table.ask(
        f"SELECT CAST({parts} AS INTEGER) AS part, kept, count({PLACE}) FROM rows "
        f"WHERE {number} IS NOT NULL GROUP BY 1, 2",
        [low, max(high - low, 1e-300)],
    ):
        counts[0 if kept else 1, part] = rows
    return {
        "column": name,
        "low": low,
        "high": high,
        "kept": counts[0].tolist(),
        "dropped": counts[1].tolist(),
    }
