"""How every measured column is distributed, among the kept and the dropped rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.report.ledgers import Ledgers
from pipelines.rows.ledger import SCORES

NUM_BINS = 40
_SAMPLED_A_SHARD = 500
_MOST_COLUMNS = 24
_NOT_MEASURED = ("shard_id", "row", "width", "height", "image_index", "seed")
_OUTER_PERCENT = 0.5


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A threshold of the configuration: `sign` is one of >=, >, <=, <."""

    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(kw_only=True)
class Histogram:
    """A column's counts.

    Attributes:
        edges: NUM_BINS + 1; values beyond them count in the outer bins.
        kept: Rows in each bin that are in the set.
        dropped: And the others.
        missing: Rows without a value.
    """

    column: str
    edges: npt.NDArray[np.float64]
    bounds: Sequence[Bound] = ()
    kept: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    dropped: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    missing: int = 0

    def add(self, values: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_]) -> None:
        """Count a shard's rows; NaN is missing."""
        is_there = np.isfinite(values)
        self.missing += int((~is_there).sum())
        inside = np.clip(values[is_there], self.edges[0], self.edges[-1])
        for counts, chosen in ((self.kept, kept[is_there]), (self.dropped, ~kept[is_there])):
            counts += np.histogram(inside[chosen], self.edges)[0]


def measured_columns(schema: pa.Schema) -> list[str]:
    """Columns with numbers to look at: scores first, then facts, then the list's own."""
    numeric = [
        field.name
        for field in schema
        if field.name not in _NOT_MEASURED
        and (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    order = {name: place for place, name in enumerate(SCORES)}
    return sorted(
        numeric, key=lambda name: (name.startswith("source_"), order.get(name, len(order)))
    )


def count_histograms(
    ledgers: Ledgers, bounds: Mapping[str, Sequence[Bound]]
) -> tuple[list[Histogram], list[str]]:
    """Histograms of the columns that vary, in two passes; and the names of those left out.

    Args:
        bounds: Thresholds by column; always within the edges.
    """
    columns = measured_columns(ledgers.schema)
    samples: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in columns}
    for table in ledgers.read(columns):
        for name in columns:
            values = _values(table, name)
            values = values[np.isfinite(values)]
            step = max(1, len(values) // _SAMPLED_A_SHARD)
            samples[name].append(values[::step])
    found = [
        Histogram(column=name, edges=edges, bounds=bounds.get(name, ()))
        for name in columns
        if (edges := _edges(np.concatenate(samples[name]), bounds.get(name, ()))) is not None
    ]
    shown, left_out = found[:_MOST_COLUMNS], [h.column for h in found[_MOST_COLUMNS:]]
    for table in ledgers.read([*(h.column for h in shown), "kept"]):
        kept = np.asarray(table["kept"], bool)
        for histogram in shown:
            histogram.add(_values(table, histogram.column), kept)
    return shown, left_out


def bounds_of(select_options: Mapping[str, Any]) -> dict[str, list[Bound]]:
    """The thresholds of the select step's recorded options, by column."""
    signs = {"min": ">=", "above": ">", "max": "<=", "below": "<"}
    found: dict[str, list[Bound]] = {}
    rules: Iterable[Mapping[str, Any]] = select_options.get("select", {}).get("rules", ())
    for rule in rules:
        for name, sign in signs.items():
            if isinstance(rule.get("column"), str) and isinstance(rule.get(name), int | float):
                bound = Bound(sign=sign, value=float(rule[name]))
                found.setdefault(rule["column"], []).append(bound)
    return found


def _edges(
    sample: npt.NDArray[np.float64], bounds: Sequence[Bound]
) -> npt.NDArray[np.float64] | None:
    if not len(sample) or sample.min() == sample.max():
        return None
    low, high = np.percentile(sample, [_OUTER_PERCENT, 100 - _OUTER_PERCENT])
    if low == high:
        low, high = sample.min(), sample.max()
    values = [bound.value for bound in bounds if np.isfinite(bound.value)]
    low, high = min([low, *values]), max([high, *values])
    return np.linspace(low, high, NUM_BINS + 1)


def _values(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = table[name].combine_chunks().cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
