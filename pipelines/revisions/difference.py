"""What a new cut of a run changed, against the one before."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.store import RunStore


@dataclass(kw_only=True)
class Difference:
    """Rows that both cuts have, by how they came out.

    Attributes:
        same: Rows kept in both or dropped in both.
        newly_kept: Kept now, dropped before.
        newly_dropped: Dropped now by reason, kept before.
    """

    same: int = 0
    newly_kept: int = 0
    newly_dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        dropped = sum(self.newly_dropped.values())
        reasons = ", ".join(f"{name} {n:,}" for name, n in self.newly_dropped.most_common())
        return (
            f"against the cut before: {self.newly_kept:,} rows newly kept, {dropped:,} no longer"
            + (f" ({reasons})" if reasons else "")
            + f", {self.same:,} as they were"
        )


def compare_cuts(store: RunStore, *, before: str, now: str, num_shards: int) -> Difference:
    """Compare two ledgers, row by row.

    Args:
        before: Fingerprint of a select step; shards that are gone or that it did not have are
            left out.
        now: Fingerprint of the present one, complete.
    """
    difference = Difference()
    for shard_id in range(num_shards):
        tables = []
        for fingerprint in (before, now):
            manifest = Committed(store, "select", fingerprint).find(shard_id)
            entry = manifest.file("ledger") if manifest is not None else None
            if entry is None or not store.exists(entry.path):
                break
            tables.append(read_checked(store, entry, ["kept", "reason"]))
        if len(tables) < 2 or tables[0].num_rows != tables[1].num_rows:
            continue
        was, is_now = (np.asarray(table["kept"], bool) for table in tables)
        difference.same += int((was == is_now).sum())
        difference.newly_kept += int((is_now & ~was).sum())
        lost = np.flatnonzero(was & ~is_now)
        difference.newly_dropped.update(tables[1]["reason"].take(lost).to_pylist())
    return difference
