"""Rows that select kept and encode refused, as the page shows them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.ledgers import Ledgers

Row = dict[str, Any]


def refused_by_encode(ledgers: Ledgers, *, shown: int) -> dict[str, list[Row]]:
    """By reason, some refused rows (with the smallest keys): key to the error that encode gave.

    Args:
        shown: How many of a reason.
    """
    step = ledgers.revision.steps.get("encode")
    found: dict[str, list[Row]] = {}
    if step is None or not step.dropped:
        return found
    for shard_id in range(step.num_shards):
        rejects = ledgers.committed("encode").table(shard_id, "latents/rejects")
        for row in rejects.to_pylist() if rejects is not None else ():
            found.setdefault(row["reason"], []).append(row)
        found = {
            reason: sorted(rows, key=lambda row: row["key"])[:shown]
            for reason, rows in found.items()
        }
    return found


def ledger_rows(ledgers: Ledgers, refused: list[Row], columns: set[str]) -> list[Row]:
    """The ledger's rows of the refused ones, with encode's reason and error."""
    told = {row["key"]: row for row in refused}
    keys = pa.array(sorted(told), pa.string())
    found: list[Row] = []
    for table in ledgers.read(columns) if told else ():
        found += table.filter(pc.is_in(table["key"], value_set=keys)).to_pylist()
    names = ("reason", "error_message")
    return [{**row, **{name: told[row["key"]][name] for name in names}} for row in found]
