"""A downloaded shard's two files: the tar of crops and the facts of every row, in plan order."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.redact import redact_text_column, redact_url_column
from pipelines.rows.caption_facts import CAPTION_FACTS, CaptionFactsConfig, measure_captions
from pipelines.rows.image_facts import IMAGE_FACTS
from pipelines.rows.ledger import DOWNLOAD_FACTS, source_fields
from pipelines.run.checked import open_checked, read_checked
from pipelines.run.committed import Committed
from pipelines.run.images import iterate_encoded
from pipelines.run.manifest import Manifest, ShardError
from pipelines.run.spool import CropSpool
from pipelines.run.store import RunStore
from pipelines.steps.download.intake import RowOutcome
from sd_core.redact import redact_url
from sd_core.tar_members import SampleTarWriter

_OUTCOME_FIELDS = tuple(field.name for field in fields(RowOutcome) if field.name != "facts")
_JSON_FIELDS = (
    "url",
    "caption",
    "key",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
    "final_url",
)


def download_facts(
    rows: pa.Table,
    *,
    shard_id: int,
    outcomes: Mapping[int, RowOutcome],
    caption_facts: CaptionFactsConfig,
) -> pa.Table:
    """The facts table: `DOWNLOAD_FACTS`, then the `source_` columns; one row for every row.

    Args:
        rows: Columns row, key, url, caption, reason, perhaps rule and error_message, `source_*`;
            a row with a reason was settled before the fetch.
        outcomes: By row number, for every other row.
        caption_facts: What is measured on the captions.
    """
    num_rows = rows.num_rows
    columns: dict[str, Any] = {
        "shard_id": pa.array([shard_id] * num_rows, pa.int32()),
        "row": rows["row"].combine_chunks(),
        "key": rows["key"].combine_chunks(),
        "url": redact_url_column(rows["url"]),
        "caption": redact_text_column(rows["caption"]),
        "rule": rows["rule"].combine_chunks() if "rule" in rows.column_names else None,
    }
    columns |= _caption_facts(rows, columns["caption"], caption_facts)
    found = [_outcome_of(row, outcomes) for row in _settled_rows(rows)]
    for name in _OUTCOME_FIELDS:
        columns[name] = [_held(getattr(outcome, name)) for outcome in found]
    for name in IMAGE_FACTS:
        columns[name] = [getattr(outcome.facts, name) for outcome in found]
    columns["final_url"] = [
        redact_url(outcome.final_url) if outcome.final_url is not None else None
        for outcome in found
    ]
    arrays = [_as_array(columns[field.name], field, num_rows) for field in DOWNLOAD_FACTS]
    sources = source_fields(rows.schema)
    arrays += [rows[field.name].combine_chunks() for field in sources]
    return pa.table(arrays, schema=pa.schema([*DOWNLOAD_FACTS, *sources]))


def _caption_facts(
    rows: pa.Table, captions: pa.Array, config: CaptionFactsConfig
) -> dict[str, pa.Array]:
    """Those that a rule before the fetch went by are measured already."""
    there = [name for name in CAPTION_FACTS if name in rows.column_names]
    left = config.model_copy(update=dict.fromkeys(there, False))
    return measure_captions(captions, left) | {n: rows[n].combine_chunks() for n in there}


def write_crops(facts: pa.Table, *, spool: CropSpool, path: Path, extension: str) -> int:
    """Write the tar of a shard's crops in img2dataset's layout; returns how many.

    Members are `{key}.<extension>`, `{key}.json` and `{key}.txt` (the caption, empty where it is
    null), with fixed owners and times, so that the bytes depend on the rows alone.
    """
    count = 0
    with SampleTarWriter(path) as tar:
        for batch in facts.select(["row", *_JSON_FIELDS]).to_batches(max_chunksize=1024):
            for facts_of_row in batch.to_pylist():
                row = facts_of_row.pop("row")
                if row not in spool:
                    continue
                files = {
                    extension: spool.read(row),
                    "json": json.dumps(facts_of_row).encode(),
                    "txt": (facts_of_row["caption"] or "").encode(),
                }
                tar.write(facts_of_row["key"], files)
                count += 1
    return count


def _settled_rows(rows: pa.Table) -> Sequence[Mapping[str, Any]]:
    names = [name for name in ("row", "reason", "error_message") if name in rows.column_names]
    settled: list[dict[str, Any]] = rows.select(names).to_pylist()
    return settled


def _outcome_of(row: Mapping[str, Any], outcomes: Mapping[int, RowOutcome]) -> RowOutcome:
    if row["reason"] is not None:
        return RowOutcome(reason=row["reason"], error_message=row.get("error_message"))
    return outcomes[row["row"]]


def _held(value: Any) -> Any:
    """Null for what int32 does not hold: a header may claim 4,294,967,295 pixels."""
    return None if isinstance(value, int) and value >= 1 << 31 else value


def _as_array(values: Any, field: pa.Field, num_rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(num_rows, field.type)
    return values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type)


class EarlierShard:
    """The facts and crops of a committed shard.

    Args:
        manifest: Its own, not quarantined.
        again: Rows that failed for these reasons are fetched again.
    """

    def __init__(self, store: RunStore, manifest: Manifest, *, again: Collection[str]) -> None:
        facts = manifest.file("facts/download")
        if facts is None:
            raise ShardError(f"download shard {manifest.shard_id} has no facts")
        self._store = store
        self._again = pa.array(sorted(again), pa.string())
        self._images = manifest.file("images")
        self._facts = read_checked(store, facts)

    def failed_rows(self, rows: pa.Table) -> pa.Table:
        """Those of the planned rows that are fetched again."""
        failed = self._facts.filter(pc.is_in(self._facts["reason"], value_set=self._again))["row"]
        return rows.filter(pc.is_in(rows["row"], value_set=failed.combine_chunks()))

    def keep_crops(self, spool: CropSpool) -> None:
        """Put the crops that were stored beside the new ones."""
        if self._images is None:
            return
        stored = self._facts.filter(self._facts["reason"].is_null())
        rows = dict(zip(stored["key"].to_pylist(), stored["row"].to_pylist(), strict=True))
        with open_checked(self._store, self._images) as stream:
            for key, encoded in iterate_encoded(stream, self._images):
                spool.add(rows[key], encoded)

    def with_new(self, facts: pa.Table) -> pa.Table:
        """The facts of all rows in plan order, those that were fetched again as they are now."""
        is_old = ~np.isin(np.asarray(self._facts["row"]), np.asarray(facts["row"]))
        both = pa.concat_tables([self._facts.filter(pa.array(is_old)).cast(facts.schema), facts])
        return both.sort_by("row").combine_chunks()


def find_earlier(
    before: Committed | None, shard_id: int, *, again: Collection[str]
) -> EarlierShard | None:
    """The shard as an earlier download left it; None where there is none, or it was given up."""
    manifest = None if before is None else before.find(shard_id)
    if before is None or manifest is None or manifest.quarantined is not None:
        return None
    return EarlierShard(before.store, manifest, again=again)
