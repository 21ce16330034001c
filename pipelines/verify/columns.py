"""Columns of one table against those of another, and against closed lists."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.schemas import Columns, columns_of
from pipelines.verify.fault import Fault, shown

CORE = frozenset(
    (
        *("shard_id", "row", "key", "url", "caption", "status", "reason", "rule", "error_message"),
        *("kept", "duplicate_of", "sha256", "phash", "width", "height", "final_url"),
    )
)
"""Columns without which a table cannot be checked at all, where its kind has them."""
RowMask = npt.NDArray[np.bool_]


def check_schema(
    table: pa.Table,
    expected: Iterable[pa.Field],
    *,
    where: str,
    recorded: Sequence[Columns] = (),
) -> Iterator[Fault]:
    """The columns are those that the run says it wrote, in order and of the same types.

    Args:
        expected: What a run that says nothing has; of these no run lacks `CORE`, nor its list's
            own columns.
        recorded: What the run keeps (`read_schemas`).
    """
    found, asked = columns_of(table.schema), columns_of(expected)
    if recorded:
        core = [line for line in asked if line.partition(":")[0] in CORE or "source_" in line[:7]]
        closest = min(recorded, key=lambda columns: len(set(columns) ^ set(found)))
        asked = (*closest, *(line for line in core if line not in closest))
    for name in found:
        if name not in asked:
            yield Fault(where, f"column {name}", "only columns of the schema")
    for name in asked:
        if name not in found:
            yield Fault(where, f"no column {name}", "every column of the schema")
    if found != asked and sorted(found) == sorted(asked):
        yield Fault(where, "columns out of order", ", ".join(asked))


def check_rows(rows: RowMask, *, where: str, found: str, expected: str) -> Iterator[Fault]:
    """One fault for all the rows of a table that break a promise."""
    at = np.flatnonzero(rows)
    if len(at):
        yield Fault(where, f"{found} in {len(at)} row(s), first row {at[0]}", expected)


def check_same(
    table: pa.Table, truth: pa.Table, names: Iterable[str], *, where: str, origin: str
) -> Iterator[Fault]:
    """The named columns hold the same values in both tables, row by row."""
    if table.num_rows != truth.num_rows:
        yield Fault(where, f"{table.num_rows} rows", f"{truth.num_rows} as in {origin}")
        return
    for name in names:
        at = np.flatnonzero(differs(table[name], truth[name]))
        if len(at):
            first = int(at[0])
            yield Fault(
                where,
                f"{name} {shown(table[name][first].as_py())} at row {first} "
                f"({len(at)} row(s) differ)",
                f"{shown(truth[name][first].as_py())} as in {origin}",
            )


def differs(left: pa.ChunkedArray, right: pa.ChunkedArray) -> RowMask:
    """Where two columns differ; null equals null and NaN equals NaN."""
    different = np.asarray(pc.fill_null(pc.not_equal(left, right), False), bool)
    if pa.types.is_floating(left.type):
        both_nan = pc.and_(pc.is_nan(left), pc.is_nan(right))
        different &= ~np.asarray(pc.fill_null(both_nan, False), bool)
    different |= is_null(left) != is_null(right)
    return different


def is_null(column: pa.ChunkedArray) -> RowMask:
    """Boolean, one a row."""
    return np.asarray(column.is_null(), bool)


def is_not_in(column: pa.ChunkedArray, allowed: Iterable[str]) -> RowMask:
    """Where a text column holds something else than null or one of the allowed."""
    known = pc.is_in(column, value_set=pa.array(sorted(allowed), pa.string()))
    return ~np.asarray(known, bool) & ~is_null(column)


def does_not_match(column: pa.ChunkedArray, pattern: str) -> RowMask:
    """Where a text column is null or does not match."""
    return ~np.asarray(pc.fill_null(pc.match_substring_regex(column, pattern), False), bool)
