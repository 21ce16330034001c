"""The plainest rule: bounds on a column of numbers, or the values that a text may have."""

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.rows.ledger import SCORES
from pipelines.rules.columns import array_of, check_known, check_numeric, check_text, numbers_of
from pipelines.rules.rule import Breaks, Missing, RowRule, RuleOutcome


class Threshold(Config):
    """Bounds on one column: `min` and `max` inclusive, `above` and `below` exclusive."""

    min: float | None = None
    """The least value that passes. Unit: the column's."""
    max: float | None = None
    """The greatest value that passes. Unit: the column's."""
    above: float | None = None
    """Only greater values pass. Unit: the column's."""
    below: float | None = None
    """Only lesser values pass. Unit: the column's."""
    missing: Missing = "drop"
    """What becomes of a row whose value is null."""

    @model_validator(mode="after")
    def _bounds_make_sense(self) -> Self:
        bounds = {name: getattr(self, name) for name in ("min", "max", "above", "below")}
        for name, bound in bounds.items():
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name} must be a finite number")
        if all(bound is None for bound in bounds.values()) and not self._has_other_test():
            raise ValueError("a threshold needs min, max, above or below")
        for low in ("min", "above"):
            for high in ("max", "below"):
                if None not in (bounds[low], bounds[high]) and bounds[low] > bounds[high]:
                    raise ValueError(f"{low} {bounds[low]} is above {high} {bounds[high]}")
        return self

    def _has_other_test(self) -> bool:
        return False


class ColumnRule(Threshold, RowRule):
    """Bounds on a column of numbers, or the values that a column of text may have."""

    column: str
    """Of the ledger, or `source_<column of the list>`."""
    one_of: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The texts that pass, of a column of text; not together with bounds."""

    def _has_other_test(self) -> bool:
        return self.one_of is not None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if self.one_of is not None and (self.min, self.max, self.above, self.below) != (None,) * 4:
            raise ValueError("a rule has one_of or bounds, not both")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        texts = [("value_missing", f"{self.column} is missing")]
        if self.one_of is not None:
            texts.append(("value_not_allowed", self.text))
        else:
            stem = self.column if self.column in SCORES else "value"
            texts.append((f"{stem}_below_min", self._side("above", "min").text))
            texts.append((f"{stem}_above_max", self._side("below", "max").text))
        return tuple(RuleOutcome(reason=reason, rule=self.name or text) for reason, text in texts)

    @property
    def text(self) -> str:
        """The rule as a reader would write it, e.g. `aesthetic_v2 >= 5`."""
        if self.one_of is not None:
            return f"{self.column} is {' or '.join(self.one_of)}"
        signs = (("above", ">"), ("min", ">="), ("below", "<"), ("max", "<="))
        bounds = [(sign, getattr(self, field)) for field, sign in signs]
        return " and ".join(f"{self.column} {sign} {b:g}" for sign, b in bounds if b is not None)

    def _side(self, *kept: str) -> Self:
        others = {"min", "max", "above", "below"} - set(kept)
        return self.model_copy(update=dict.fromkeys(others))

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        if self.one_of is not None:
            check_text(self.column, types, where=self.where)
            return
        check_known(self.column, types, where=self.where)
        check_numeric(types[self.column], self.column, where=self.where)

    @np.errstate(over="ignore")  # a bound beyond the column's precision is infinite
    def broken(self, rows: pa.Table) -> Breaks:
        if self.one_of is not None:
            column = array_of(rows, self.column)
            allowed = pc.is_in(column, value_set=pa.array(self.one_of, pa.string()))
            breaks = np.where(np.asarray(allowed), 0, 2).astype(np.int16)
            breaks[np.asarray(column.is_null())] = 1 if self.missing == "drop" else 0
            return breaks
        values = numbers_of(rows, self.column, where=self.where)
        breaks = np.zeros(rows.num_rows, np.int16)
        there = ~values.is_missing
        data: Any = values.data
        if self.max is not None:
            breaks[there & (data > self.max)] = 3
        if self.below is not None:
            breaks[there & (data >= self.below)] = 3
        if self.min is not None:
            breaks[there & (data < self.min)] = 2
        if self.above is not None:
            breaks[there & (data <= self.above)] = 2
        if self.missing == "drop":
            breaks[values.is_missing] = 1
        return breaks
