"""Verdicts as pure functions of a shard's facts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config import ConfigError
from pipelines.ledger import LEDGER, SCORES, carried_fields, source_fields
from pipelines.stages.select.config import BestOf, SelectConfig, Threshold

_NUMBER_TYPES = ("int64", "uint64", "double")


class ColumnError(ConfigError):
    """A threshold names a column that the facts do not have, or that holds no numbers."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """For each row, why it is dropped (None: it passed) and by which rule of the user's."""

    reason: np.ndarray
    rule: np.ndarray

    @property
    def passed(self) -> np.ndarray:
        """Boolean, one a row."""
        return _is_none(self.reason)


def _is_none(values: np.ndarray) -> np.ndarray:
    return np.fromiter((value is None for value in values), bool, len(values))


def join_scores(facts: pa.Table, scores: pa.Table | None) -> pa.Table:
    """Facts of every row with the score columns beside them, null where there is no image."""
    positions = np.full(facts.num_rows, -1, dtype=np.int64)
    if scores is not None and scores.num_rows:
        row_to_position = {row: at for at, row in enumerate(facts["row"].to_pylist())}
        for at, row in enumerate(scores["row"].to_pylist()):
            positions[row_to_position[row]] = at
    take = pa.array(positions, mask=positions < 0)
    joined = facts
    for name in SCORES:
        field = LEDGER.field(name)
        if scores is not None and name in scores.column_names:
            column = scores[name].combine_chunks().take(take)
        else:
            column = pa.nulls(facts.num_rows, field.type)
        joined = joined.append_column(field, column)
    return joined


def judge(joined: pa.Table, config: SelectConfig) -> Verdict:
    """Download's reason, else a score that is not finite, else the first failing threshold."""
    reason = np.array(joined["reason"].to_pylist(), dtype=object)
    rule = np.array(joined["rule"].to_pylist(), dtype=object)
    for name in SCORES:
        values = _numbers(joined, name)
        _mark(reason, rule, np.isinf(values.data) | values.is_nan, "score_not_finite", name)
    for name, threshold in config.thresholds.items():
        _apply(reason, rule, _numbers(joined, name), name, threshold)
    if config.best_of is not None:
        _keep_best(reason, rule, joined, config.best_of)
    return Verdict(reason=reason, rule=rule)


def _keep_best(reason: np.ndarray, rule: np.ndarray, joined: pa.Table, best_of: BestOf) -> None:
    """Mark those that passed and are not among the best of their group."""
    if best_of.per not in joined.column_names:
        raise ColumnError(
            f"select.best_of.per: {best_of.per!r} is a column of generation runs alone"
        )
    values = _numbers(joined, best_of.by)
    scores = np.where(values.is_null | values.is_nan, -np.inf, values.data)
    groups = np.array(joined[best_of.per].to_pylist(), dtype=object)
    rows = np.flatnonzero(_is_none(reason))
    found: dict[object, int] = {}
    text = f"best {best_of.num_images} of {best_of.per} by {best_of.by}"
    for at in rows[np.argsort(-scores[rows], kind="stable")]:
        rank = found[groups[at]] = found.get(groups[at], 0) + 1
        if rank > best_of.num_images:
            reason[at], rule[at] = "ranked_below_best", text


def ledger_table(joined: pa.Table, verdict: Verdict) -> pa.Table:
    """The ledger's rows: facts, scores and verdict, with the list's own columns at the end."""
    kept = pa.array(verdict.passed)
    columns = {
        "kept": kept,
        "reason": pa.array(verdict.reason.tolist(), pa.string()),
        "rule": pa.array(verdict.rule.tolist(), pa.string()),
    }
    fields = [*LEDGER, *carried_fields(joined.schema)]
    arrays = [
        columns.get(field.name, joined[field.name] if field.name in joined.column_names else None)
        for field in fields
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def check_thresholds(config: SelectConfig, source_columns: Mapping[str, str]) -> None:
    """Refuse thresholds on columns that the list does not have, or that hold no numbers.

    Args:
        config: Thresholds by column.
        source_columns: The run's `source_` columns and their types, as the plan names them.

    Raises:
        ColumnError: naming the threshold, and what the list has.
    """
    for name in config.thresholds:
        if not name.startswith("source_"):
            continue
        if name not in source_columns:
            raise ColumnError(
                f"select.thresholds.{name}: the list has no such column; it has: "
                + (", ".join(source_columns) or "none of its own")
            )
        if source_columns[name] not in _NUMBER_TYPES:
            raise ColumnError(
                f"select.thresholds.{name}: the column holds {source_columns[name]}, not numbers"
            )


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    data: np.ndarray
    is_null: np.ndarray
    is_nan: np.ndarray


def _numbers(table: pa.Table, name: str) -> _Numbers:
    if name not in table.column_names:
        raise ColumnError(
            f"select.thresholds.{name}: the list has no such column; it has: "
            + (", ".join(field.name for field in source_fields(table.schema)) or "none of its own")
        )
    column = table[name].combine_chunks()
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not (is_number or pa.types.is_boolean(kind)):
        raise ColumnError(f"select.thresholds.{name}: the column is {kind}, not a number")
    # In the column's own precision: a float32 that was stored as 0.1 is not above a max of 0.1.
    data = np.asarray(pc.fill_null(column, pa.scalar(0).cast(kind)))
    return _Numbers(data=data, is_null=np.asarray(column.is_null()), is_nan=np.isnan(data))


def _apply(
    reason: np.ndarray, rule: np.ndarray, values: _Numbers, name: str, threshold: Threshold
) -> None:
    stem = name if name in SCORES else "value"
    if threshold.missing == "drop":
        _mark(reason, rule, values.is_null | values.is_nan, "value_missing", f"{name} is missing")
    present = ~(values.is_null | values.is_nan)
    if threshold.min is not None:
        below = present & (values.data < threshold.min)
        _mark(reason, rule, below, f"{stem}_below_min", f"{name} >= {threshold.min:g}")
    if threshold.max is not None:
        above = present & (values.data > threshold.max)
        _mark(reason, rule, above, f"{stem}_above_max", f"{name} <= {threshold.max:g}")


def _mark(reason: np.ndarray, rule: np.ndarray, where: np.ndarray, code: str, text: str) -> None:
    fresh = where & _is_none(reason)
    reason[fresh] = code
    rule[fresh] = text
