"""What became of every row of a run, read from its ledger and encode's rejects."""

from dataclasses import dataclass

from pipelines.run.store import RunStore
from pipelines.run.tables import read_table

_COLUMNS = [
    "shard_id",
    "key",
    "url",
    "caption",
    "kept",
    "reason",
    "rule",
    "clip_similarity",
    "aesthetic_v1",
    "aesthetic_v2",
    "status",
]


@dataclass(frozen=True, kw_only=True)
class DemoOutcome:
    """One input row's end: kept, or dropped for `reason` by `rule`."""

    shard_id: int
    key: str
    url: str | None
    caption: str | None
    kept: bool
    reason: str | None
    rule: str | None
    clip_similarity: float | None
    aesthetic: float | None
    """V2 where the run has it, else V1."""
    has_image: bool
    planted: str | None
    """The list's own `planted` column, where it has one."""


def read_outcomes(store: RunStore) -> list[DemoOutcome]:
    """Every row of the run, in plan order."""
    rejected = _encode_rejects(store)
    outcomes: list[DemoOutcome] = []
    for path in list_shards(store, "ledger"):
        table = read_table(store, path)
        names = [name for name in (*_COLUMNS, "source_planted") if name in table.column_names]
        for row in table.select(names).to_pylist():
            reason = rejected.get((row["shard_id"], row["key"]), row["reason"])
            score = row["aesthetic_v2"]
            outcomes.append(
                DemoOutcome(
                    shard_id=row["shard_id"],
                    key=row["key"],
                    url=row["url"],
                    caption=row["caption"],
                    kept=reason is None,
                    reason=reason,
                    rule=row["rule"],
                    clip_similarity=row["clip_similarity"],
                    aesthetic=row["aesthetic_v1"] if score is None else score,
                    has_image=row["status"] == "success",
                    planted=row.get("source_planted"),
                )
            )
    return outcomes


def list_shards(store: RunStore, folder: str) -> list[str]:
    """The current revision's files of a folder of the run; empty where it has none."""
    try:
        return store.read_bytes(f"{folder}/shards.txt").decode().split()
    except FileNotFoundError:
        return []


def _encode_rejects(store: RunStore) -> dict[tuple[int, str], str]:
    rejects = {}
    for path in list_shards(store, "latents/rejects"):
        for row in read_table(store, path, columns=["shard_id", "key", "reason"]).to_pylist():
            rejects[row["shard_id"], row["key"]] = row["reason"]
    return rejects
