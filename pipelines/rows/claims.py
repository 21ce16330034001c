"""Scores that a list can bring along, as LAION's do: what it claims is the row's score."""

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

CLAIMED_SCORES: Final = {"punsafe": "source_punsafe", "pwatermark": "source_pwatermark"}
"""Score of the ledger to the list's column."""

_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?\s*$"


def claimed_numbers(column: pa.Array) -> pa.Array:
    """A column of the list as float64; what is no number, or NaN, is null."""
    if pa.types.is_string(column.type):
        column = pc.if_else(
            pc.match_substring_regex(column, _NUMBER),
            pc.utf8_trim_whitespace(column),
            pa.scalar(None, pa.string()),
        )
    values = pc.cast(column, pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)


def claimed_or_scored(table: pa.Table, name: str) -> pa.Array:
    """The score of each row (float32): the list's claim, else the column that a head made.

    Args:
        table: With the score's column, and with the list's where it has one.
        name: One of `CLAIMED_SCORES`.
    """
    scored = _whole(table[name])
    source = CLAIMED_SCORES[name]
    if source not in table.column_names:
        return scored
    claimed = claimed_numbers(_whole(table[source]))
    return pc.coalesce(pc.cast(claimed, pa.float32(), safe=False), scored)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
