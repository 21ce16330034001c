"""Make a plan: read the source once, cut it into shards, settle duplicates."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipelines.config import Config
from pipelines.plan.draft import PlanDraft
from pipelines.plan.duplicates import SETTLED_REASONS, DuplicateFinder
from pipelines.plan.inputs import source_options
from pipelines.plan.record import (
    PLAN_VERSION,
    SHARD_FIELDS,
    SHARDS_PATH,
    Plan,
    PlanError,
    grown_shards_path,
    put_table,
    settled_path,
    store_plan,
)
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.sources.columns import SourceColumn
from pipelines.sources.config import SourceError
from pipelines.sources.source import Source

BeforeStore = Callable[[Sequence[SourceColumn]], None]

_MAX_NOTES = 100  # a list of many odd files must not make the plan unreadable


class PlanConfig(Config):
    """How the rows are cut into shards."""

    rows_per_shard: int = Field(default=10_000, ge=1, le=1_000_000)
    """A shard never crosses files, so a file's last shard may be smaller."""


def make_plan(
    source: Source,
    config: PlanConfig,
    *,
    store: RunStore,
    limit: int | None = None,
    scratch: Path | None = None,
    before_store: BeforeStore = lambda columns: None,
) -> Plan:
    """Read the source once, cut it into shards, settle duplicates, and store the plan.

    Args:
        limit: After how many rows the plan ends; None: it has all.
        scratch: Where local temporary files go; 32 bytes a row beyond the first million.
        before_store: Told of the columns before anything is written; raises to refuse them.

    Raises:
        PlanError: the source cannot be read, has no rows, or changed while it was read.
    """
    with (
        spool_folder(scratch) as folder,
        DuplicateFinder(folder) as finder,
    ):
        draft = PlanDraft(rows_per_shard=config.rows_per_shard, finder=finder, limit=limit)
        try:
            for file in source.files:
                if draft.is_full:
                    draft.is_cut = True
                    break
                draft.add_file(source, file)
        except SourceError as error:
            raise PlanError(str(error)) from error
        return store_draft(draft, source, store, before_store=before_store)


def store_draft(
    draft: PlanDraft,
    source: Source,
    store: RunStore,
    *,
    before_store: BeforeStore,
    grown: Plan | None = None,
) -> Plan:
    """Settle the duplicates of a draft and store it as the run's plan.

    Args:
        draft: Its shards in order.
        source: The list.
        store: The run.
        before_store: As of `make_plan`.
        grown: The plan that it was grown from, whose shards come first and whose columns stay.

    Raises:
        PlanError: there are no rows.
    """
    if not draft.shards:
        raise PlanError(f"{source.files[0].uri}: no rows in any of {len(source.files)} file(s)")
    columns = draft.columns(source.config.content_hash) if grown is None else grown.columns
    content_hash = _content_hash_column(source, columns)
    before_store(columns)
    shards, totals = _settle(draft, store)
    plan = Plan(
        fingerprint=_fingerprint(draft, source, columns, content_hash, grown),
        rows_per_shard=draft.rows_per_shard,
        num_rows=sum(file.num_rows for file in draft.files),
        files=tuple(draft.files),
        columns=columns,
        options=source_options(source),
        content_hash=content_hash,
        settled=totals,
        shards=shards,
        shards_path=SHARDS_PATH if grown is None else grown_shards_path(shards),
        notes=_all_notes(draft, grown),
        limit=draft.limit if draft.is_cut else None,
        uncut_rows=draft.uncut_rows,
    )
    store_plan(plan, store)
    return plan


def _settle(draft: PlanDraft, store: RunStore) -> tuple[pa.Table, dict[str, int]]:
    """Store the rows of each shard that the plan settles; the shards, and how many by reason."""
    settled_counts = np.zeros(len(draft.shards), dtype=np.int32)
    settled_sha256: dict[int, str] = {}
    totals = dict.fromkeys(SETTLED_REASONS, 0)
    for records in draft.finder.settled():
        shard_id = int(records["shard_id"][0])
        settled_counts[shard_id] = len(records)
        reasons = [SETTLED_REASONS[code] for code in records["reason"]]
        for reason in SETTLED_REASONS:
            totals[reason] += reasons.count(reason)
        rows = pa.array(records["row"].astype(np.int32))
        table = pa.table({"row": rows, "reason": reasons})
        settled_sha256[shard_id] = put_table(store, settled_path(shard_id), table)
    shards = pa.Table.from_pylist(
        [
            {
                **asdict(shard),
                "num_settled": int(count),
                "settled_sha256": settled_sha256.get(shard.shard_id),
            }
            for shard, count in zip(draft.shards, settled_counts, strict=True)
        ],
        schema=SHARD_FIELDS,
    )
    return shards, totals


def _all_notes(draft: PlanDraft, grown: Plan | None) -> dict[str, int]:
    notes = Counter({} if grown is None else grown.notes) + draft.notes
    return dict(notes.most_common(_MAX_NOTES))


def _content_hash_column(source: Source, columns: Sequence[SourceColumn]) -> str | None:
    asked = source.config.content_hash
    if asked is None:
        return None
    for column in columns:
        if column.input == asked:
            return column.name
    raise PlanError(
        f"source.content_hash is {asked!r}, but the columns are: "
        f"{', '.join(column.input for column in columns) or '(none but URL and caption)'}"
    )


def _fingerprint(
    draft: PlanDraft,
    source: Source,
    columns: Sequence[SourceColumn],
    content_hash: str | None,
    grown: Plan | None,
) -> str:
    ways = ("tar_grouping", "csv.", "captions")
    told = {name: v for name, v in source_options(source).items() if v and name.startswith(ways)}
    told |= {f.name: f.max_cell_bytes for f in draft.files if f.max_cell_bytes is not None}
    tree = {
        "schema_version": PLAN_VERSION,
        "rows_per_shard": draft.rows_per_shard,
        "files": [[file.name, file.sha256, asdict(file.text_columns)] for file in draft.files],
        "columns": [asdict(column) for column in columns],
        "content_hash": content_hash,
        **({"told": told} if told else {}),
        **({"limit": draft.limit} if draft.is_cut else {}),
        **({} if grown is None else {"grown_from": grown.fingerprint}),
    }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
