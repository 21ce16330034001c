"""One shard's facts, row by row: of the first step and of score."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.keys import KEY, ROW_KEY
from pipelines.rows.ledger import (
    ENCODE_REASONS,
    LATER_GENERATION_FIELDS,
    ORIGIN_FACTS,
    REASONS,
    REJECTS,
    SCORE_FACTS,
    SCORE_REASONS,
    STATUSES,
    TAKEDOWN_REASONS,
)
from pipelines.run.manifest import Manifest
from pipelines.run.schemas import Columns
from pipelines.sources.columns import SourceColumn
from pipelines.verify.columns import (
    check_rows,
    check_same,
    check_schema,
    does_not_match,
    is_not_in,
    is_null,
)
from pipelines.verify.fault import Fault
from pipelines.verify.measured import check_measured
from pipelines.verify.secrets import check_table_secrets
from sd_core.model.buckets import Bucket, bucket_of

_SHA256 = r"^[0-9a-f]{64}$"


def check_origin_facts(
    facts: pa.Table,
    manifest: Manifest,
    *,
    where: str,
    columns: Sequence[SourceColumn],
    sizes: Sequence[Bucket],
    recorded: Sequence[Columns] = (),
) -> Iterator[Fault]:
    """One row for every row of the plan, with a status, and a reason where there is no image.

    Args:
        manifest: Of the step that made the images.
        columns: The plan's pass-through columns.
        sizes: That stored images may have; none where that is not known.
        recorded: The schemas that the run keeps of these facts.
    """
    schema = [*as_written(ORIGIN_FACTS[manifest.step], facts), *source_schema(columns)]
    yield from (faults := list(check_schema(facts, schema, where=where, recorded=recorded)))
    if faults:
        return
    yield from check_row_identity(facts, manifest, where=where)
    yield from check_reasons(facts, manifest, where=where)
    yield from check_table_secrets(facts, where=where)
    no_image = ~is_null(facts["reason"])
    yield from check_rows(
        is_not_in(facts["status"], STATUSES), where=where, found="status", expected=str(STATUSES)
    )
    success = np.asarray(pc.fill_null(pc.equal(facts["status"], "success"), False), bool)
    yield from check_rows(
        success == no_image,
        where=where,
        found="status against reason",
        expected="success where the reason is null, and only there",
    )
    yield from check_measured(facts, where=where)
    stored = facts.filter(pa.array(~no_image))
    yield from _check_stored(stored, where=where, sizes=sizes)


def check_settled(facts: pa.Table, settled: pa.Table, *, where: str) -> Iterator[Fault]:
    """The rows that the plan settled (row, reason) have its reason, or were taken down since."""
    is_left = pc.invert(pc.is_in(facts["reason"], value_set=pa.array(TAKEDOWN_REASONS)))
    settled = settled.filter(is_left.take(settled["row"]))
    truth = settled.set_column(1, "reason", settled["reason"].cast(pa.string()))
    found = facts.select(["row", "reason"]).take(settled["row"])
    yield from check_same(found, truth, ["reason"], where=where, origin="the plan")


def check_score_facts(
    scores: pa.Table,
    stored: pa.Table | None,
    manifest: Manifest,
    *,
    where: str,
    recorded: Sequence[Columns] = (),
) -> Iterator[Fault]:
    """One row for every stored image, in order, with scores of the schema."""
    fields = [*SCORE_FACTS, *(field for field in scores.schema if field.name == "embedding")]
    yield from (faults := list(check_schema(scores, fields, where=where, recorded=recorded)))
    if faults:
        return
    if scores.num_rows != manifest.rows_in:
        yield Fault(where, f"{scores.num_rows} rows", f"{manifest.rows_in}, its rows in")
    if stored is not None:
        names = ["shard_id", "row", "key"]
        yield from check_same(scores, stored, names, where=where, origin="download's images")


def check_score_rejects(
    rejects: pa.Table, manifest: Manifest, ledger: pa.Table | None, *, where: str
) -> Iterator[Fault]:
    """Rows that score refused, which the ledger has under the same reason and error."""
    yield from (
        faults := list(check_rejects(rejects, manifest, allowed=SCORE_REASONS, where=where))
    )
    told = {"row", "reason", "error_message"}
    if faults or ledger is None or not told <= set(ledger.column_names):
        return
    is_left = pc.invert(pc.is_in(ledger["reason"], value_set=pa.array(TAKEDOWN_REASONS)))
    in_rejects = pc.is_in(ledger["row"], value_set=rejects["row"].combine_chunks())
    found = ledger.filter(pc.and_(in_rejects, pc.fill_null(is_left, True)))
    names = ["row", "reason", "error_message"]
    yield from check_same(found, rejects, names, where="ledger", origin=where)


def check_rejects(
    rejects: pa.Table,
    manifest: Manifest,
    *,
    where: str,
    allowed: Sequence[str] = ENCODE_REASONS,
) -> Iterator[Fault]:
    """Rows that a step refused, each with a reason of its own."""
    yield from (faults := list(check_schema(rejects, REJECTS, where=where)))
    if faults:
        return
    yield from check_reasons(rejects, manifest, where=where)
    yield from check_table_secrets(rejects, where=where)
    yield from check_rows(
        is_null(rejects["reason"]) | is_not_in(rejects["reason"], allowed),
        where=where,
        found="reason",
        expected=f"one of {', '.join(allowed)}",
    )


def as_written(fields: Iterable[pa.Field], table: pa.Table) -> list[pa.Field]:
    """The fields of a table, without those that runs of earlier versions lack."""
    names = set(table.column_names)
    return [f for f in fields if f.name in names or f.name not in LATER_GENERATION_FIELDS]


def stored_rows(facts: pa.Table) -> pa.Table:
    """Download's rows that have an image, in order."""
    return facts.filter(facts["reason"].is_null())


def source_schema(columns: Sequence[SourceColumn]) -> list[pa.Field]:
    """The fields of the plan's pass-through columns."""
    return [pa.field(column.name, pa.type_for_alias(column.type)) for column in columns]


def check_row_identity(table: pa.Table, manifest: Manifest, *, where: str) -> Iterator[Fault]:
    if table.num_rows != manifest.rows_in:
        yield Fault(where, f"{table.num_rows} rows", f"{manifest.rows_in}, its rows in")
    rows, shard_ids = np.asarray(table["row"]), np.asarray(table["shard_id"])
    wrong = (rows != np.arange(table.num_rows)) | (shard_ids != manifest.shard_id)
    yield from check_rows(
        wrong,
        where=where,
        found="row number or shard id",
        expected=f"shard {manifest.shard_id}, rows 0 to {manifest.rows_in - 1} in order",
    )
    yield from check_rows(
        does_not_match(table["key"], KEY), where=where, found="key", expected="16 hex digits"
    )


def check_reasons(table: pa.Table, manifest: Manifest, *, where: str) -> Iterator[Fault]:
    yield from check_rows(
        is_not_in(table["reason"], REASONS),
        where=where,
        found="an unknown reason",
        expected="a reason of the closed list",
    )
    counts = Counter(table["reason"].drop_null().to_pylist())
    if counts != Counter(manifest.dropped):
        yield Fault(
            where,
            f"dropped {dict(sorted(counts.items()))}",
            f"{dict(sorted(manifest.dropped.items()))} as its manifest says",
        )


def _check_stored(stored: pa.Table, *, where: str, sizes: Sequence[Bucket]) -> Iterator[Fault]:
    where = f"{where} (rows with an image)"
    yield from check_rows(
        does_not_match(stored["sha256"], _SHA256),
        where=where,
        found="sha256",
        expected="64 hex digits",
    )
    yield from check_rows(
        ~is_null(stored["phash"]) & does_not_match(stored["phash"], f"^{ROW_KEY}$"),
        where=where,
        found="phash",
        expected="16 hex digits, or null where it was not asked for",
    )
    asked = _asked(stored, sizes)
    for name in ("width", "height"):
        values = np.asarray(pc.fill_null(stored[name], 0))
        wrong = values < 1
        expected = "at least 1"
        if asked is not None:
            wrong |= values != [getattr(size, name) for size in asked]
            first = asked[int(wrong.argmax())] if wrong.any() else asked[0]
            expected = str(getattr(first, name))
        yield from check_rows(wrong, where=where, found=name, expected=expected)


def _asked(stored: pa.Table, sizes: Sequence[Bucket]) -> list[Bucket] | None:
    """The size that each stored image must have; None where nobody knows."""
    if not sizes or not stored.num_rows:
        return None
    if len(sizes) == 1:
        return [sizes[0]] * stored.num_rows
    widths, heights = stored["original_width"].to_pylist(), stored["original_height"].to_pylist()
    originals = zip(widths, heights, strict=True)
    return [bucket_of(width or 1, height or 1, sizes).bucket for width, height in originals]
