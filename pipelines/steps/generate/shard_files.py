"""A generated shard's files: the tar of images, the facts of every row, the metadata to make each
image again."""

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.rows.caption_facts import CAPTION_FACTS, CaptionFactsConfig, measure_captions
from pipelines.rows.failures import Failures, describe_error
from pipelines.rows.image_facts import IMAGE_FACTS, NOT_MEASURED, ImageFacts
from pipelines.rows.ledger import (
    GENERATE_FACTS,
    GENERATION_FIELDS,
    ROW_FAILED,
    SETTING_FIELDS,
    TAKEDOWN_REASONS,
    TOKEN_FIELDS,
    source_fields,
)
from pipelines.run.spool import CropSpool
from pipelines.run.tables import with_column
from pipelines.steps.generate.rows import ImageRow, RefusedRow
from sd_core.tar_members import SampleTarWriter

_OF_A_SOURCE = ("init_key", "strength", "mask")
METADATA = pa.schema(
    [
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_index", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        *(field.with_nullable(field.name in _OF_A_SOURCE) for field in SETTING_FIELDS),
        pa.field("noise_seed", pa.int64(), nullable=False),
        pa.field("notes", pa.string()),
        pa.field("guidance_rescale", pa.float64(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("scheduler", pa.string(), nullable=False),
        pa.field("scheduler_sha256", pa.string(), nullable=False),
        pa.field("versions", pa.string(), nullable=False),
        *TOKEN_FIELDS,
    ]
)
"""One row for every image; as a list of prompts it makes the same images again."""

_NOT_IN_JSON = (
    *("shard_id", "row", "rule", "final_url", "url", "reason"),
    *IMAGE_FACTS,
    *CAPTION_FACTS,
)


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """What is known of a stored image beside its row."""

    sha256: str
    batch_size: int
    facts: ImageFacts = NOT_MEASURED
    parameters_are_cut: bool = False


def generation_facts(
    rows: pa.Table,
    resolved: Sequence[ImageRow | RefusedRow],
    made: Mapping[int, MadeImage],
    caption_facts: CaptionFactsConfig,
    *,
    failures: Failures | None = None,
) -> pa.Table:
    """`GENERATE_FACTS`, then the `source_` columns; one row for every row.

    Args:
        rows: Of `expand_rows`.
        resolved: The same rows with their settings.
        made: By row number; a row that is neither made nor refused nor failed came to values that
            are not finite.
        caption_facts: What is measured on the prompts.
        failures: By key, rows that a library refused.
    """
    failed = failures or {}
    records = [
        _fact(row, found, made.get(row["row"]), failed.get(row["key"]))
        for row, found in zip(_plain_rows(rows), resolved, strict=True)
    ]
    facts = pa.Table.from_pylist(records, schema=GENERATE_FACTS)
    captions = pa.concat_arrays([*facts["caption"].chunks, pa.array([], pa.string())])
    for name, column in measure_captions(captions, caption_facts).items():
        facts = with_column(facts, name, column)
    for field in source_fields(rows.schema):
        facts = facts.append_column(field, rows[field.name])
    return facts


def _plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    names = [name for name in rows.column_names if not name.startswith("source_")]
    plain: list[dict[str, Any]] = rows.select(names).to_pylist()
    return plain


def _fact(
    row: dict[str, Any],
    found: ImageRow | RefusedRow,
    made: MadeImage | None,
    failure: Exception | None,
) -> dict[str, Any]:
    fact = {name: row.get(name) for name in (field.name for field in GENERATION_FIELDS)}
    fact |= {name: row[name] for name in ("shard_id", "row", "key")}
    fact["caption"] = row["prompt"]
    if isinstance(found, RefusedRow):
        return fact | {
            "status": None if found.reason in TAKEDOWN_REASONS else "failed_to_generate",
            "reason": found.reason,
            "error_message": found.error_message,
        }
    fact |= {
        field.name: getattr(found, field.name)
        for field in GENERATION_FIELDS
        if field.name != "prompt_key"
    }
    fact["caption"] = found.prompt
    if made is None and failure is not None:
        return fact | {
            "status": "failed_to_generate",
            "reason": ROW_FAILED,
            "error_message": describe_error(failure),
        }
    if made is None:
        return fact | {"status": "failed_to_generate", "reason": "image_not_finite"}
    return fact | {
        "status": "success",
        "sha256": made.sha256,
        "width": found.width,
        "height": found.height,
        "original_width": found.width,
        "original_height": found.height,
        **vars(made.facts),
    }


def write_image_files(
    facts: pa.Table,
    *,
    spool: CropSpool,
    path: Path,
    extension: str,
    cut: Container[int] = frozenset(),
) -> int:
    """Write the tar of a shard's images in img2dataset's layout; returns how many.

    Members are `{key}.<extension>`, `{key}.json` and `{key}.txt` (the prompt), with fixed owners
    and times, so that the bytes depend on the rows alone.

    Args:
        cut: Numbers of the rows whose image file holds only the beginning of the prompts; the JSON
            says so (`parameters_are_cut`) and holds them whole.
    """
    names = [
        name
        for name in facts.column_names
        if name not in _NOT_IN_JSON and not name.startswith("source_")
    ]
    count = 0
    with SampleTarWriter(path, extended=True) as tar:
        for batch in facts.select(["row", *names]).to_batches(max_chunksize=1024):
            for fact in batch.to_pylist():
                row = fact.pop("row")
                if row not in spool:
                    continue
                if row in cut:
                    fact["parameters_are_cut"] = True
                files = {
                    extension: spool.read(row),
                    "json": json.dumps(fact).encode(),
                    "txt": fact["caption"].encode(),
                }
                tar.write(fact["key"], dict(sorted(files.items())))
                count += 1
    return count
