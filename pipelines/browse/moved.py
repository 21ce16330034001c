"""The run's rules with one threshold moved: whom that would let through, and the YAML of it."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
import yaml

from pipelines.browse.table import PLACE, RULE, STEP, RowsTable
from pipelines.browse.view import Bound, Moved
from pipelines.config import ConfigError, validate_config
from pipelines.redact import redact_config
from pipelines.rules.claim_rules import CaptionRule, ClaimedRule
from pipelines.rules.column_rule import ColumnRule
from pipelines.rules.rule import Rule
from pipelines.rules.sql_rule import SqlRule
from pipelines.run.record import read_run
from pipelines.steps.kinds import STEP_KINDS
from pipelines.steps.select import SelectConfig

BOUNDS: Final[tuple[Bound, ...]] = ("min", "above", "max", "below")
_ASKED_AGAIN: Final = (ColumnRule, CaptionRule, ClaimedRule, SqlRule)
"""Rules that look at the row alone: no file that a run names is opened for it."""
_SETTLED: Final = ("url", "sha256")
_NONE: Final = -1


class MovedRules:
    """The rules of `select` as the run recorded them; none where they cannot be read."""

    def __init__(self, table: RowsTable) -> None:
        self._table = table
        self._record = read_run(table.run.store)
        self._known: dict[tuple[str, Bound], int] = {}
        self._lock = Lock()
        table.add(
            "freed", pa.table({"rule": pa.array([], pa.int64()), PLACE: pa.array([], pa.int64())})
        )

    @cached_property
    def _select(self) -> SelectConfig:
        tree = (self._record.get("config") or {}).get("select") or {}
        try:
            return validate_config(SelectConfig, tree, where="select")
        except ConfigError:  # of a version to come, or by hand
            return SelectConfig()

    @cached_property
    def _rules(self) -> list[Rule]:
        return [rule for _, rule in self._select.ordered_rules()]

    @property
    def drops_same_bytes(self) -> bool:
        """Whether of pictures with the same bytes one stays."""
        return "sha256" in self._select.copies.by

    def bounds(self) -> Iterator[tuple[str, Bound, float]]:
        """Column, kind and value of each threshold, in order."""
        for rule in self._rules:
            if not isinstance(rule, ColumnRule):
                continue
            for bound in BOUNDS:
                if (value := getattr(rule, bound)) is not None:
                    yield rule.column, bound, value

    def unsettled(self) -> list[str]:
        """What the live count leaves out, because only a cut settles it."""
        others = [rule for rule in self._rules if not isinstance(rule, _ASKED_AGAIN)]
        told = [_flow(_tree(rule)) for rule in others]
        near = [f"duplicates by {name}" for name in self._select.copies.by if name not in _SETTLED]
        return told + near + (["references"] if self._select.copies.references else [])

    def keeps_missing(self, moved: Moved) -> bool:
        """Whether a row without a value passes."""
        at = self._at(moved.column, moved.bound)
        rule = None if at == _NONE else self._rules[at]
        return isinstance(rule, ColumnRule) and rule.missing == "keep"

    def freed(self, moved: Moved) -> int:
        """The number under which the table `freed` has the rows that this bound alone keeps out:
        what it dropped, and no other rule on single rows would."""
        name = (moved.column, moved.bound)
        with self._lock:
            if name not in self._known:
                number = len(self._known)
                self._find_freed(self._at(*name), moved.bound, number)
                self._known[name] = number
            return self._known[name]

    def _at(self, column: str, bound: Bound) -> int:
        """The first rule with this bound; `_NONE` where the run has none."""
        for at, rule in enumerate(self._rules):
            is_on_it = isinstance(rule, ColumnRule) and rule.column == column
            if is_on_it and getattr(rule, bound) is not None:
                return at
        return _NONE

    def _find_freed(self, at: int, bound: Bound, number: int) -> None:
        rule = None if at == _NONE else self._rules[at]
        if not isinstance(rule, ColumnRule):
            return
        outcome = rule.outcomes[1 if bound in ("min", "above") else 2]
        others = [
            found.ready(where="select", storage_options={})
            for found in self._with(at, _without(rule, bound))
            if isinstance(found, _ASKED_AGAIN)
        ]
        sql = "SELECT * FROM rows WHERE reason = ? AND rule IS NOT DISTINCT FROM ?"
        for rows in self._table.batches(sql, [outcome.reason, outcome.rule]):
            passed = np.ones(rows.num_rows, np.bool_)
            ledger = rows.drop_columns([PLACE, STEP, RULE])
            for other in others:
                if set(other.columns) <= set(ledger.column_names):
                    passed &= other.broken(ledger) == 0
            places = rows[PLACE].filter(pa.array(passed))
            numbers = pa.array([number] * len(places), pa.int64())
            self._table.add("freed", pa.table({"rule": numbers, PLACE: places}))

    def _with(self, at: int, rule: ColumnRule | None) -> Iterable[Rule]:
        """The rules with another one at a place, or none."""
        return [*self._rules[:at], *([rule] if rule is not None else []), *self._rules[at + 1 :]]

    def yaml(self, moved: Moved) -> list[str]:
        """`select.rules` with the threshold moved, by lines: a new one comes last."""
        at = self._at(moved.column, moved.bound)
        changed = {moved.bound: moved.value}
        if at == _NONE:
            rules = [*self._rules, ColumnRule.model_validate({"column": moved.column, **changed})]
        else:
            rules = [*self._with(at, self._rules[at].model_copy(update=changed))]  # type: ignore[arg-type]
        return ["select:", "  rules:", *(f"    - {_flow(_tree(r))}" for r in rules)]

    def steps(self) -> str:
        """What a new cut makes again, as `--steps` takes it."""
        done = self._table.run.revision.steps
        return ",".join(name for name, kind in STEP_KINDS.items() if kind.is_recut and name in done)


def _without(rule: ColumnRule, bound: Bound) -> ColumnRule | None:
    """The rule without a bound; None where it had no other."""
    others = [name for name in BOUNDS if name != bound and getattr(rule, name) is not None]
    return rule.model_copy(update={bound: None}) if others else None


def _tree(rule: Rule) -> dict[str, Any]:
    return redact_config(rule.model_dump(mode="json", exclude_defaults=True))


def _flow(tree: dict[str, Any]) -> str:
    text = yaml.safe_dump(tree, default_flow_style=True, width=1 << 20, allow_unicode=True)
    return text.strip()
