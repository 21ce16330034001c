"""SQL conditions of a user's, by a DuckDB that reaches neither files nor the network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.rules.columns import Mask
from pipelines.rules.rule import Breaks
from sd_core.plain_json import parse_json

_PLACE = "__place"
_NO_ROWS_FAULT = (
    *(duckdb.OutOfMemoryException, duckdb.InterruptException, duckdb.IOException),
    *(duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException),
    *(duckdb.InternalException, duckdb.FatalException),
)
_ERRORS_ASKED = 100
_MESSAGE_CHARS = 300
_LOCKED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # no table is a variable of this program
    "threads": "1",
    "memory_limit": "1GB",
}
_NOT_ROW_BY_ROW = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "LAMBDA": "a lambda",
    "PARAMETER": "a parameter",
    "STAR": "a star",
}
_OF_ANY_SIZE = ("range", "generate_series", "repeat", "lpad", "rpad", "list_resize", "array_resize")
_MAX_MADE = 1_000_000  # DuckDB's own limit of memory does not hold what one function makes
_OF_THE_MOMENT = ("now", "today", "age", "getvariable", "in_search_path", "transaction_timestamp")


class Condition:
    """A condition on one row, checked when it is made.

    Args:
        sql: Such as `original_width >= 512 and source_license = 'CC0'`.
        where: The key that it is configured by.

    Raises:
        ConfigError: it is not one expression, or looks beyond its row.
    """

    def __init__(self, sql: str, *, where: str) -> None:
        self._where = where
        self._sql = sql
        tree = self._parse()
        self._refuse(tree)
        self.columns = tuple(dict.fromkeys(_columns(tree)))
        """Names that it reads, in the order they are met."""

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raise `ConfigError` where it does not go with columns of these names and types."""
        known = {name.lower() for name in types}
        unknown = [name for name in self.columns if name.lower() not in known]
        if unknown:
            raise ConfigError(
                f"{self._where}.sql: no column {', '.join(map(repr, unknown))}; allowed: "
                + ", ".join(types)
            )
        self.met(pa.table({name: pa.nulls(1, kind) for name, kind in types.items()}))

    def met(self, rows: pa.Table) -> Mask:
        """Where it is true, one a row; false where it is null.

        Raises:
            ConfigError: it fails on a row (a cast that a value does not allow).
        """
        try:
            return self._met(rows)
        except duckdb.Error as error:
            raise self._explained(error) from None

    def judge(self, rows: pa.Table) -> "Judged":
        """As `met`, with the rows on which it fails set apart; raises `ConfigError` otherwise."""
        none = np.zeros(rows.num_rows, np.bool_)
        try:
            return Judged(met=self._met(rows), failed=none, errors=(), error=None)
        except _NO_ROWS_FAULT as caught:
            raise self._explained(caught) from None
        except duckdb.Error as caught:
            error = self._explained(caught)
        failed = self._fails(rows)
        if not failed.any():
            raise error
        met = none.copy()
        met[~failed] = self.met(rows.filter(pa.array(~failed)))
        errors = self._errors_of(rows.filter(pa.array(failed)))
        return Judged(met=met, failed=failed, errors=errors, error=error)

    def _met(self, rows: pa.Table) -> Mask:
        met = np.zeros(rows.num_rows, np.bool_)
        found = _placed(rows).filter(duckdb.SQLExpression(self._sql)).select(_PLACE).fetchnumpy()
        met[found[_PLACE]] = True
        return met

    def _fails(self, rows: pa.Table) -> Mask:
        """Where it fails: there alone is TRY of something that is never null null."""
        failed = np.zeros(rows.num_rows, np.bool_)
        fails = f"TRY((\n{self._sql}\n) IS NULL) IS NULL"
        try:
            found = _placed(rows).filter(duckdb.SQLExpression(fails)).select(_PLACE).fetchnumpy()
        except duckdb.Error as error:
            raise self._explained(error) from None
        failed[found[_PLACE]] = True
        return failed

    def _errors_of(self, rows: pa.Table) -> Sequence[str]:
        """What each failing row fails with; of many, the later ones as the last that was asked."""
        errors: list[str] = []
        for at in range(min(rows.num_rows, _ERRORS_ASKED)):
            try:
                self._met(rows.slice(at, 1))
                errors.append("Error: fails beside other rows")
            except duckdb.Error as error:
                errors.append(f"{type(error).__name__}: {_first_line(error)}"[:_MESSAGE_CHARS])
        kind = errors[-1].partition(":")[0]
        return [*errors, *[f"{kind}: as other rows"] * (rows.num_rows - len(errors))]

    def _explained(self, error: duckdb.Error) -> ConfigError:
        return ConfigError(f"{self._where}.sql: {_first_line(error)}")

    def _parse(self) -> Any:
        try:
            duckdb.SQLExpression(self._sql)  # refuses what is more than an expression
            query = f"SELECT 1 WHERE (\n{self._sql}\n)"
            [(text,)] = _database().execute("SELECT json_serialize_sql(?)", [query]).fetchall()
        except duckdb.Error as error:
            raise ConfigError(f"{self._where}.sql: {_first_line(error)}") from None
        tree = parse_json(text)
        if tree["error"]:
            raise ConfigError(f"{self._where}.sql: {tree['error_message']}")
        return tree["statements"][0]["node"]["where_clause"]

    def _refuse(self, tree: Any) -> None:
        for node in _nodes(tree):
            name = node.get("function_name", "")
            if node["class"] in _NOT_ROW_BY_ROW:
                found = _NOT_ROW_BY_ROW[node["class"]]
            elif name in _volatile() or name in _OF_THE_MOMENT or "current_" in name:
                found = f"{name}(), which is another at every run"
            elif name in _OF_ANY_SIZE and max(_whole_numbers(node), default=0) > _MAX_MADE:
                found = f"{name}() of more than {_MAX_MADE:,} parts"
            else:
                continue
            raise ConfigError(
                f"{self._where}.sql: holds {found}; a condition looks at the columns of one row"
            )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a condition says of rows.

    Attributes:
        met: Where it is true.
        failed: Where it cannot be evaluated; `errors` are theirs, in order.
        error: The first of them, for the user.
    """

    met: Mask
    failed: Mask
    errors: Sequence[str]
    error: ConfigError | None

    @property
    def breaks(self) -> Breaks:
        """As a rule's: 1 where it is not met, 2 where it failed."""
        return np.where(self.failed, 2, ~self.met).astype(np.int16)


def _placed(rows: pa.Table) -> duckdb.DuckDBPyRelation:
    places = pa.array(np.arange(rows.num_rows, dtype=np.int64))
    return _database().from_arrow(rows.append_column(_PLACE, places))


def _database() -> duckdb.DuckDBPyConnection:
    return _opened().cursor()


@cache
def _opened() -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(":memory:", config=_LOCKED)
    database.execute("SET lock_configuration = true")
    return database


@cache
def _volatile() -> frozenset[str]:
    query = "SELECT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'"
    return frozenset(name for (name,) in _database().execute(query).fetchall())


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            yield from _nodes(part)


def _whole_numbers(tree: Any) -> Iterator[int]:
    for node in _nodes(tree):
        literal = node.get("literal", {})
        if literal.get("kind") == "INTEGER":
            yield abs(int(literal["text"]))


def _columns(tree: Any) -> Iterator[str]:
    for node in _nodes(tree):
        if node["class"] == "COLUMN_REF":
            yield node["column_names"][-1]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
