"""What a new cut of a run changed, against the one before."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from pipelines.run.checked import read_checked
from pipelines.run.committed import Committed
from pipelines.run.on_threads import in_order
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
    cuts = [Committed(store, "select", fingerprint) for fingerprint in (before, now)]
    for found in in_order(
        partial(_compare_shard, cuts), range(num_shards), num_threads=store.num_threads
    ):
        difference.same += found.same
        difference.newly_kept += found.newly_kept
        difference.newly_dropped += found.newly_dropped
    return difference


def _compare_shard(cuts: Sequence[Committed], shard_id: int) -> Difference:
    entries = [m.file("ledger") if (m := cut.find(shard_id)) is not None else None for cut in cuts]
    before, now = entries
    if before is None or now is None or before.num_rows != now.num_rows:
        return Difference()
    if before.sha256 == now.sha256:
        return Difference(same=now.num_rows)
    store = cuts[0].store
    if not store.exists(before.path):  # a clean-up has been there
        return Difference()
    tables = [read_checked(store, entry, ["kept", "reason"]) for entry in (before, now)]
    was, is_now = (np.asarray(table["kept"], bool) for table in tables)
    lost = np.flatnonzero(was & ~is_now)
    return Difference(
        same=int((was == is_now).sum()),
        newly_kept=int((is_now & ~was).sum()),
        newly_dropped=Counter(tables[1]["reason"].take(lost).to_pylist()),
    )
