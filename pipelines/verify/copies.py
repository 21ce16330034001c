"""Exact copies among the kept rows, where select was asked to leave none."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.committed import Committed
from pipelines.run.manifest import ShardError
from pipelines.run.record import StepSummary
from pipelines.run.store import RunStore
from pipelines.verify.fault import Fault
from pipelines.verify.keys import KeySpill

HASH_DIGITS = 16
"""How much of a sha256 is compared first; rows that agree in it are then compared whole."""


def forbids_copies(run: Mapping[str, Any] | None, select: StepSummary | None) -> bool:
    """Whether the options of the current ledger drop rows with the same sha256."""
    recorded = (run or {}).get("steps", {}).get("select", {})
    if select is None or recorded.get("fingerprint") != select.fingerprint:
        return False  # the options on record are those of a cut that is not complete
    options = recorded.get("options", {}).get("select", {})
    if not isinstance(options, Mapping):
        return False
    duplicates = options.get("duplicates")
    if isinstance(duplicates, Mapping):
        return "sha256" in duplicates.get("by", ())
    return duplicates == "sha256"  # as it was written before there were other kinds


def check_named_copies(named: KeySpill, kept: KeySpill) -> Iterator[Fault]:
    """Every copy names a kept row, or one that was taken down since.

    Args:
        named: What the ledger's `duplicate_of` holds.
        kept: Keys of these rows.
    """
    for place in named.missing_from(kept):
        found = f"named by a copy in shard {place.shard_id}, not kept"
        yield Fault(f"ledger: key {place.key}", found, "a kept row that stands for its copies")


def check_copies(store: RunStore, select: StepSummary, hashes: KeySpill) -> Iterator[Fault]:
    """No two kept rows of the run have the same sha256.

    Args:
        hashes: The first `HASH_DIGITS` of every kept row's sha256.
    """
    for place in hashes.repeated():
        shard_ids = {place.shard_id, place.other_shard or place.shard_id}
        digests = [
            digest
            for shard_id in shard_ids
            for digest in _kept_hashes(store, select, shard_id)
            if digest.startswith(place.key)
        ]
        if len(set(digests)) < len(digests):
            shards = f"shards {place.shard_id} and {place.other_shard}"
            found = f"kept more than once, in {shards}"
            yield Fault(f"ledger: sha256 {place.key}…", found, "the first copy only")


def _kept_hashes(store: RunStore, select: StepSummary, shard_id: int) -> list[str]:
    try:
        verdicts = Committed(store, "select", select.fingerprint)
        table = verdicts.table(shard_id, "ledger", columns=["kept", "sha256"])
        if table is None:
            return []
    except (ShardError, OSError, pa.ArrowException):
        return []  # a fault of its own, reported before
    hashes: list[str] = table.filter(pc.fill_null(table["kept"], False))["sha256"].to_pylist()
    return [digest for digest in hashes if digest is not None]
