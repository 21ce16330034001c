"""Columns that rules can name, and their values as numbers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.rows.ledger import LEDGER, source_fields

Mask = npt.NDArray[np.bool_]
"""One a row."""
VERDICT_COLUMNS = ("kept", "reason", "rule", "duplicate_of")
"""What select itself writes, so that no rule can go by it."""


class ColumnError(ConfigError):
    """A rule names a column that the facts do not have, or that is of the wrong kind."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """A column of numbers.

    Attributes:
        data: In the column's own precision, so that a float32 that was stored as 0.1 is not above
            a max of 0.1; 0 where it is null.
        is_missing: Null or NaN.
    """

    data: npt.NDArray[np.generic]
    is_missing: npt.NDArray[np.bool_]


def usable_columns(
    facts: Iterable[pa.Field], source_columns: Mapping[str, pa.DataType]
) -> dict[str, pa.DataType]:
    """Name to type of what a rule can name, in a run with these facts beside the ledger's."""
    types = {field.name: field.type for field in (*LEDGER, *facts)}
    return {n: t for n, t in types.items() if n not in VERDICT_COLUMNS} | dict(source_columns)


def array_of(table: pa.Table, name: str) -> pa.Array:
    """A column in one piece."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else column.type.wrap_array([])
    return column


def numbers_of(table: pa.Table, name: str, *, where: str) -> Numbers:
    """A column as numbers; booleans count as 0 and 1.

    Raises:
        ColumnError: there is no such column, or it holds something else; says `where`.
    """
    if name not in table.column_names:
        sources = ", ".join(field.name for field in source_fields(table.schema))
        raise ColumnError(
            f"{where}: the run has no column {name!r}; the list's own are: {sources or 'none'}"
        )
    column = array_of(table, name)
    check_numeric(column.type, name, where=where)
    data = np.asarray(pc.fill_null(column, pa.scalar(0).cast(column.type)))
    return Numbers(data=data, is_missing=np.asarray(column.is_null()) | np.isnan(data))


def is_numeric(kind: pa.DataType) -> bool:
    """Whether bounds can be set on a column of this type."""
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(is_kind(kind) for is_kind in numeric)


def check_numeric(kind: pa.DataType, name: str, *, where: str) -> None:
    """Raise `ColumnError` where a column's type is neither a number nor a boolean."""
    if not is_numeric(kind):
        raise ColumnError(f"{where}: the column {name} holds {kind}, not numbers")


def check_known(name: str, known: Iterable[str], *, where: str) -> None:
    """Raise `ColumnError` where a column is not among the known."""
    allowed = list(known)
    if name not in allowed:
        raise ColumnError(f"{where}: no column {name!r}; allowed: {', '.join(allowed)}")


def check_text(name: str, types: Mapping[str, pa.DataType], *, where: str) -> None:
    """Raise `ColumnError` where there is no such column, or it is no text."""
    check_known(name, [n for n, kind in types.items() if kind == pa.string()], where=where)
