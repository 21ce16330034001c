"""One shard's ledger, row by row: the facts as they were, and one verdict for each row."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.claims import CLAIMED_SCORES
from pipelines.rows.ledger import (
    DUPLICATE_REASONS,
    GENERATION_FIELDS,
    LEDGER,
    ROW_FAILED,
    SCORES,
    TOKEN_FIELDS,
)
from pipelines.run.manifest import Manifest
from pipelines.run.schemas import Columns
from pipelines.sources.columns import SourceColumn
from pipelines.verify.columns import (
    check_rows,
    check_same,
    check_schema,
    is_null,
)
from pipelines.verify.facts import as_written, check_reasons, check_row_identity, source_schema
from pipelines.verify.fault import Fault
from pipelines.verify.measured import check_claimed, check_tokens
from pipelines.verify.records import TokenPromise
from pipelines.verify.secrets import check_table_secrets

_NOT_CARRIED = {"shard_id", "row", "key", "embedding", *CLAIMED_SCORES}
"""Columns of score's facts that the ledger has from elsewhere, or not at all."""


def check_ledger(
    ledger: pa.Table,
    facts: pa.Table | None,
    scores: pa.Table | None,
    manifest: Manifest,
    *,
    where: str,
    columns: Sequence[SourceColumn],
    origin: str = "download",
    tokens: TokenPromise | None = None,
    recorded: Sequence[Columns] = (),
) -> Iterator[Fault]:
    """One row for every row of the plan: the facts as they were, and one verdict.

    Ledgers of runs made before captions were counted lack those columns, and say so.
    """
    made = as_written(GENERATION_FIELDS, ledger) if origin == "generate" else ()
    tokens = tokens or TokenPromise(is_known=False)
    counted = {field.name for field in TOKEN_FIELDS}
    is_older = tokens.max_tokens is None and counted.isdisjoint(ledger.column_names)
    own = [field for field in LEDGER if not (is_older and field.name in counted)]
    schema = [*own, *made, *source_schema(columns)]
    yield from (faults := list(check_schema(ledger, schema, where=where, recorded=recorded)))
    if faults:
        return
    yield from check_row_identity(ledger, manifest, where=where)
    yield from check_reasons(ledger, manifest, where=where)
    yield from check_table_secrets(ledger, where=where)
    yield from _check_verdicts(ledger, where=where)
    if not is_older and tokens.is_known:
        yield from check_tokens(ledger, max_tokens=tokens.max_tokens, where=where)
    if facts is not None:
        yield from _check_carried(ledger, facts, where=where)
    if scores is not None:
        yield from _check_scores(ledger, scores, where=where)
    yield from check_claimed(ledger, scores, where=where)


def _check_verdicts(ledger: pa.Table, *, where: str) -> Iterator[Fault]:
    """A reason where a row is not kept, and only there."""
    kept = np.asarray(ledger["kept"], bool)
    yield from check_rows(
        kept != is_null(ledger["reason"]),
        where=where,
        found="kept against reason",
        expected="kept where the reason is null, and only there",
    )
    yield from check_rows(
        kept & ~is_null(ledger["rule"]), where=where, found="a rule at a kept row", expected="none"
    )
    is_copy = np.asarray(pc.is_in(ledger["reason"], value_set=pa.array(DUPLICATE_REASONS)), bool)
    yield from check_rows(
        is_copy == is_null(ledger["duplicate_of"]),
        where=where,
        found="duplicate_of against reason",
        expected="a key where the reason is a duplicate's, and only there",
    )


def _check_scores(ledger: pa.Table, scores: pa.Table, *, where: str) -> Iterator[Fault]:
    """Every score as score's facts have it."""
    if set(SCORES) - set(scores.column_names):
        return
    rows = np.asarray(pc.is_in(ledger["row"], value_set=scores["row"].combine_chunks()), bool)
    found = ledger.filter(pa.array(rows))
    scored = [name for name in scores.column_names if name not in _NOT_CARRIED]
    for name in set(scored) - set(ledger.column_names):
        yield Fault(where, f"no column {name}", "every column of score's facts")
    scored = [name for name in scored if name in ledger.column_names]
    yield from check_same(found, scores, scored, where=where, origin="score's facts")


def _check_carried(ledger: pa.Table, facts: pa.Table, *, where: str) -> Iterator[Fault]:
    judged = ("reason", "rule", "error_message")
    names = [name for name in facts.column_names if name not in judged]
    yield from check_same(ledger, facts, names, where=where, origin="download's facts")
    if ledger.num_rows != facts.num_rows:
        return
    failed = pa.array(~is_null(facts["reason"]))
    told = ~is_null(ledger["error_message"]) & ~np.asarray(failed, bool)
    other = np.asarray(pc.fill_null(pc.not_equal(ledger["reason"], ROW_FAILED), True), bool)
    yield from check_rows(
        told & other & is_null(facts["error_message"]),
        where=where,
        found="error_message of a row that did not fail",
        expected="none",
    )
    yield from check_same(
        ledger.filter(failed),
        facts.filter(failed),
        judged,
        where=f"{where} (rows without an image)",
        origin="download's facts",
    )
