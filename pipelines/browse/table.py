"""The rows of a run as a table to ask: its ledger in a DuckDB of the page's own.

What is asked for comes in as parameters, never as SQL; a column is named only where it is one.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.ledgers import without_names
from pipelines.rows.ledger import is_score
from pipelines.run.funnel import steps_by_reason
from pipelines.run.on_threads import in_order
from pipelines.run.reader import EVERY, Run
from pipelines.run.revision_files import NotInRunError
from sd_core.errors import EnvironmentFault
from sd_core.say import Say

PLACE, STEP, RULE = "__place", "__step", "__rule"
"""Columns beside the ledger's: the row's number in the list; the step that dropped it; the rule
without the row that a copy copies."""
KEPT_BY_SELECT: Final = f"(kept OR {STEP} IS NOT DISTINCT FROM 'encode')"
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "memory_limit": "2GB",
}
_WANTS: Final = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.TransactionException)
_NUMBERS: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "HUGEINT")
_TOLD_EVERY: Final = 200
_ROWS_AT_ONCE: Final = 100_000
Row = dict[str, Any]


class RowsTable:
    """The ledger of one revision, read once.

    Args:
        run: Its select step is complete.
        folder: A local one, for what does not fit into memory.

    Raises:
        IncompleteRunError, ShardError: as `Run.ledger`.
    """

    def __init__(self, run: Run, folder: Path, *, say: Say) -> None:
        self.run = run
        self._folder = folder
        settings = {**_SETTINGS, "temp_directory": str(folder / "spilled")}
        with _kept_in(folder):
            self._database = duckdb.connect(str(folder / "rows.duckdb"), config=settings)
        self.add_all("rows", self._shards(say))
        self._database.execute("SET lock_configuration = true")
        found = self._database.execute("DESCRIBE rows").fetchall()
        self.types: dict[str, str] = {name: kind for name, kind, *_ in found}
        """Of each column, in DuckDB's words."""
        [(self.num_rows,)] = self.ask("SELECT count(*) FROM rows")
        self.scores = self._scores()
        """Columns of scores that some row has."""

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """For one thread."""
        with _kept_in(self._folder), self._database.cursor() as cursor:
            yield cursor

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _shards(self, say: Say) -> Iterator[pa.Table]:
        steps, place = _StepOf(self.run), 0
        num_shards = self.run.step("select").num_shards
        read = in_order(
            self.run.shard, range(num_shards), num_threads=min(4, self.run.store.num_threads)
        )
        for number, shard in enumerate(read, start=1):
            rules = without_names(shard["rule"], shard["reason"])
            places = pa.array(np.arange(place, place + shard.num_rows))
            found = shard.append_column(PLACE, places).append_column(STEP, steps(shard))
            yield found.append_column(RULE, rules)
            place += shard.num_rows
            if number % _TOLD_EVERY == 0:
                say(f"the ledger: {number:,} of {num_shards:,} shards are read")

    def _scores(self) -> list[str]:
        names = [name for name in self.types if is_score(name) and self.is_number(name)]
        counts = ", ".join(f"count({quoted(name)})" for name in names) or "0"
        [found] = self.ask(f"SELECT {counts} FROM rows")
        return [name for name, count in zip(names, found, strict=False) if count]

    def add(self, name: str, table: pa.Table) -> None:
        """Put rows into a table of this database, which gets the columns that it lacks."""
        with self._cursor() as cursor:
            cursor.register("added", table)
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM added LIMIT 0")
            there = {found[0].lower() for found in cursor.execute(f"DESCRIBE {name}").fetchall()}
            for column, kind, *_ in cursor.execute("DESCRIBE added").fetchall():
                if column.lower() not in there:
                    cursor.execute(f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {kind}")
            cursor.execute(f"INSERT INTO {name} BY NAME FROM added")
            cursor.unregister("added")

    def add_all(self, name: str, tables: Iterable[pa.Table]) -> None:
        """As `add`, many together: each time costs the same, however few the rows are."""
        held, num_rows = list[pa.Table](), 0
        for table in tables:
            if held and (num_rows >= _ROWS_AT_ONCE or table.schema != held[0].schema):
                self.add(name, pa.concat_tables(held))
                held, num_rows = [], 0
            held.append(table)
            num_rows += table.num_rows
        if held:
            self.add(name, pa.concat_tables(held))

    def ask(self, sql: str, given: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query with these parameters; from any thread."""
        with self._cursor() as cursor:
            return cursor.execute(sql, given).fetchall()

    def dicts(self, sql: str, given: Sequence[Any] = ()) -> list[Row]:
        """As `ask`, by column."""
        with self._cursor() as cursor:
            found = cursor.execute(sql, given)
            names = [column[0] for column in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def places(self, sql: str, given: Sequence[Any] = ()) -> "np.typing.NDArray[np.int64]":
        """The one column of a query, of places."""
        with self._cursor() as cursor:
            found = cursor.execute(sql, given).fetchnumpy()
        return np.asarray(found[PLACE], np.int64)

    def batches(self, sql: str, given: Sequence[Any] = ()) -> Iterator[pa.Table]:
        """As `ask`, in pieces, as Arrow has them."""
        with self._cursor() as cursor:
            for batch in cursor.sql(sql, params=list(given)).to_arrow_reader(100_000):
                yield pa.Table.from_batches([batch])

    def column(self, name: str) -> str:
        """A column as it stands in SQL; raises `NotInRunError` where there is none."""
        if name not in self.types:
            raise NotInRunError(f"{self.run.path}: its ledger has no column {name!r}")
        return quoted(name)

    def number(self, name: str) -> str:
        """As `column`, of numbers: what is not finite is null."""
        told = self.column(name)
        if not self.is_number(name):
            raise NotInRunError(f"{self.run.path}: the column {name!r} is not one of numbers")
        is_float = self.types[name] in ("FLOAT", "DOUBLE")
        return f"CASE WHEN isfinite({told}) THEN {told} END" if is_float else told

    def is_number(self, name: str) -> bool:
        """Whether a column's values can be held against a bound."""
        kind = self.types.get(name, "")
        return kind.lstrip("U") in _NUMBERS or kind.startswith("DECIMAL")

    def bound(self, name: str, value: float) -> tuple[str, float]:
        """A number to hold against a column, in the column's own precision, as rules do: beyond
        it, it is infinite."""
        if self.types[name] != "FLOAT":
            return "CAST(? AS DOUBLE)", value
        with np.errstate(over="ignore"):
            return "CAST(? AS FLOAT)", float(np.float32(value))


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """What a database lacks to work is the environment's fault."""
    try:
        yield
    except _WANTS as error:
        told = str(error).strip().split("\n")[0]
        raise EnvironmentFault(f"the temporary folder {folder} (TMPDIR): {told}") from error


def quoted(name: str) -> str:
    """A column's name as SQL takes it for nothing else."""
    return '"' + name.replace('"', '""') + '"'


class _StepOf:
    """Which step dropped each row of a ledger's shard."""

    def __init__(self, run: Run) -> None:
        self._run, self._by_reason = run, steps_by_reason(run.revision, run.origin)

    def __call__(self, shard: pa.Table) -> pa.ChunkedArray:
        names = pa.array(list(self._by_reason), pa.string())
        steps = pa.array(list(self._by_reason.values()), pa.string())
        found = steps.take(pc.index_in(shard["reason"].combine_chunks(), value_set=names))
        by_select = pc.and_kleene(pc.equal(shard["reason"], "row_failed"), shard["rule"].is_valid())
        found = pc.if_else(pc.fill_null(by_select, False), "select", found)
        found = pc.if_else(self._is_encodes(shard), "encode", found)
        return pc.if_else(shard["kept"], pa.scalar(None, pa.string()), found)

    def _is_encodes(self, shard: pa.Table) -> pa.Array | pa.Scalar:
        refused = self._run.refused.get(shard["shard_id"][0].as_py()) if shard.num_rows else None
        if not refused:
            return pa.scalar(False)
        rows = zip(*(shard[name].to_pylist() for name in ("key", "reason", "rule")), strict=True)
        ends = [
            (refused.get(k) or refused.get(EVERY) or {}, reason, rule) for k, reason, rule in rows
        ]
        return pa.array(
            [rule is None and end.get("reason", "") == reason for end, reason, rule in ends]
        )
