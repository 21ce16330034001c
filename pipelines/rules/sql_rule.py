"""A condition in SQL as a rule."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
from pydantic import Field

from pipelines.config import ConfigError
from pipelines.rows.ledger import ROW_FAILED
from pipelines.rules.rule import Breaks, OpenOptions, RowRule, RuleOutcome

if TYPE_CHECKING:
    from pipelines.rules.conditions import Condition, Judged


class SqlRule(RowRule):
    """A DuckDB condition on the row's columns; a row for which it is null is dropped too."""

    sql: str = Field(min_length=1)
    """The condition, such as `original_width * original_height >= 262144`."""

    @property
    def columns(self) -> tuple[str, ...]:
        return _condition(self.sql, self.where).columns

    def ready(self, *, where: str, storage_options: OpenOptions) -> "SqlCondition":
        return SqlCondition(self.sql, name=self.name, where=where)


class SqlCondition:
    """A condition, ready to ask.

    A row on which it cannot be evaluated (a text that is no number) is dropped alone; where it
    can be evaluated on none of the run, `finish` raises.

    Attributes:
        errors: Of the rows that `take` was told of last, in order.
    """

    def __init__(self, sql: str, *, name: str | None, where: str) -> None:
        self._condition = _condition(sql, where)
        self.columns = self._condition.columns
        self.outcomes = (
            RuleOutcome(reason="condition_not_met", rule=name or sql),
            RuleOutcome(reason=ROW_FAILED, rule=name or sql),
        )
        self.errors: list[str] = []
        self._is_proven = False
        self._error: ConfigError | None = None

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        self._condition.check(types)

    def broken(self, rows: pa.Table) -> Breaks:
        judged = self.judge(rows)
        self.take(judged)
        return judged.breaks

    def judge(self, rows: pa.Table) -> "Judged":
        """What is said of rows, on any thread; `take` is told of it in their order."""
        return self._condition.judge(rows)

    def take(self, judged: "Judged") -> None:
        """Go on from what `judge` said of the next rows."""
        self.errors = list(judged.errors)
        self._is_proven = self._is_proven or len(self.errors) < len(judged.met)
        self._error = self._error or judged.error

    def finish(self) -> None:
        """After the last shard: raise `ConfigError` where it could be evaluated on no row."""
        if self._error is not None and not self._is_proven:
            raise self._error


def _condition(sql: str, where: str) -> "Condition":
    from pipelines.rules.conditions import Condition  # DuckDB is loaded where a rule asks for it

    return Condition(sql, where=where)
