"""Rules that look at one row: a table of rows in, which of them break which outcome out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.rows.ledger import ROW_FAILED, SCORES
from pipelines.rules.columns import (
    array_of,
    check_known,
    check_numeric,
    numbers_of,
)
from pipelines.rules.conditions import Condition
from pipelines.rules.presets import describe
from pipelines.rules.ranked_rules import ColumnRule
from pipelines.rules.word_lists import WordList

Breaks = npt.NDArray[np.int16]
"""One a row: 0 where the rule is kept, else the number of the outcome, from 1."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a dropped row's `reason` and `rule` say."""

    reason: str
    rule: str


class RowRule(Protocol):
    """A rule that needs nothing but the row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads."""

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Why it drops rows."""

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raise `ConfigError` where it does not go with columns of these names and types."""

    def broken(self, rows: pa.Table) -> Breaks:
        """Which outcome each row meets."""


class FiniteScores:
    """No score is NaN or infinite, whatever the configuration says."""

    columns = SCORES
    outcomes = tuple(Outcome(reason="score_not_finite", rule=name) for name in SCORES)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """The scores are columns of every run."""

    def broken(self, rows: pa.Table) -> Breaks:
        breaks = np.zeros(rows.num_rows, np.int16)
        for number, name in reversed(list(enumerate(SCORES, start=1))):
            finite = pc.fill_null(pc.is_finite(array_of(rows, name)), True)
            breaks[~np.asarray(finite)] = number
        return breaks


class CacheSize:
    """The latent cache holds images of one size, and encode is given no others."""

    columns = ("width", "height")

    def __init__(self, size: int) -> None:
        self._size = size
        text = f"the latent cache holds {size}x{size} px"
        self.outcomes = (Outcome(reason="image_of_another_size", rule=text),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has the sizes of its images."""

    def broken(self, rows: pa.Table) -> Breaks:
        fits = [pc.equal(array_of(rows, name), self._size) for name in self.columns]
        return (~np.asarray(pc.fill_null(pc.and_(*fits), False), bool)).astype(np.int16)


class Bounds:
    """Bounds on a column of numbers."""

    def __init__(self, rule: ColumnRule, *, where: str) -> None:
        self._rule, self._where = rule, where
        self.columns = (rule.column,)
        stem = rule.column if rule.column in SCORES else "value"
        texts = [
            ("value_missing", f"{rule.column} is missing"),
            (f"{stem}_below_min", self._side(above=rule.above, min=rule.min)),
            (f"{stem}_above_max", self._side(below=rule.below, max=rule.max)),
        ]
        self.outcomes = tuple(
            Outcome(reason=reason, rule=rule.name or text) for reason, text in texts
        )

    def _side(self, **bounds: float | None) -> str:
        others = {"min": None, "max": None, "above": None, "below": None}
        return describe(self._rule.model_copy(update={**others, **bounds}))

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        check_known(self._rule.column, types, where=self._where)
        check_numeric(types[self._rule.column], self._rule.column, where=self._where)

    def broken(self, rows: pa.Table) -> Breaks:
        rule = self._rule
        values = numbers_of(rows, rule.column, where=self._where)
        breaks = np.zeros(rows.num_rows, np.int16)
        there = ~values.is_missing
        data: Any = values.data
        if rule.max is not None:
            breaks[there & (data > rule.max)] = 3
        if rule.below is not None:
            breaks[there & (data >= rule.below)] = 3
        if rule.min is not None:
            breaks[there & (data < rule.min)] = 2
        if rule.above is not None:
            breaks[there & (data <= rule.above)] = 2
        if rule.missing == "drop":
            breaks[values.is_missing] = 1
        return breaks


class OneOf:
    """A column of text holds one of some values."""

    def __init__(self, rule: ColumnRule, *, where: str) -> None:
        self._rule, self._where = rule, where
        self.columns = (rule.column,)
        self.outcomes = (
            Outcome(reason="value_missing", rule=rule.name or f"{rule.column} is missing"),
            Outcome(reason="value_not_allowed", rule=rule.name or describe(rule)),
        )

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        check_text(self._rule.column, types, where=self._where)

    def broken(self, rows: pa.Table) -> Breaks:
        column = array_of(rows, self._rule.column)
        allowed = pc.is_in(column, value_set=pa.array(self._rule.one_of, pa.string()))
        breaks = np.where(np.asarray(allowed), 0, 2).astype(np.int16)
        breaks[np.asarray(column.is_null())] = 1 if self._rule.missing == "drop" else 0
        return breaks


class SqlCondition:
    """A condition of the user's in SQL.

    A row on which it cannot be evaluated (a text that is no number) is dropped alone; where it
    can be evaluated on none of the run, `finish` raises.

    Attributes:
        errors: Of the rows that the last call of `broken` met so, in order.
    """

    def __init__(self, sql: str, *, name: str | None, where: str) -> None:
        self._condition = Condition(sql, where=where)
        self.columns = self._condition.columns
        self.outcomes = (
            Outcome(reason="condition_not_met", rule=name or sql),
            Outcome(reason=ROW_FAILED, rule=name or sql),
        )
        self.errors: list[str] = []
        self._is_proven = False
        self._error: ConfigError | None = None

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        self._condition.check(types)

    def broken(self, rows: pa.Table) -> Breaks:
        judged = self._condition.judge(rows)
        failed = len(judged.errors)
        self.errors = list(judged.errors)
        self._is_proven = self._is_proven or failed < rows.num_rows
        self._error = self._error or judged.error
        return np.where(judged.failed, 2, ~judged.met).astype(np.int16)

    def finish(self) -> None:
        """After the last shard: raise `ConfigError` where it could be evaluated on no row."""
        if self._error is not None and not self._is_proven:
            raise self._error


class BlockedKeys:
    """Rows whose key is on a list."""

    columns = ("key",)

    def __init__(self, keys: frozenset[str], *, name: str) -> None:
        self._keys = pa.array(sorted(keys), pa.string())
        self.outcomes = (Outcome(reason="key_blocked", rule=name),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Every run has keys."""

    def broken(self, rows: pa.Table) -> Breaks:
        found = pc.is_in(array_of(rows, "key"), value_set=self._keys)
        return np.asarray(found).astype(np.int16)


class BlockedWords:
    """Rows whose text holds a word or phrase of a list."""

    def __init__(self, words: WordList, *, column: str, name: str, where: str) -> None:
        self._words, self._where = words, where
        self.columns = (column,)
        self.outcomes = (Outcome(reason="word_blocked", rule=name),)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        check_text(self.columns[0], types, where=self._where)

    def broken(self, rows: pa.Table) -> Breaks:
        return self._words.found_in(array_of(rows, self.columns[0])).astype(np.int16)


def check_text(name: str, types: Mapping[str, pa.DataType], *, where: str) -> None:
    """Raise `ColumnError` where there is no such column, or it is no text."""
    check_known(name, [n for n, kind in types.items() if kind == pa.string()], where=where)
