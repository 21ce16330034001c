"""Which rows the page shows: some of every reason, the best and the worst, copies, prompts.

Keys are hashes, so the rows with the smallest keys are a fair sample that is the same each time.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.ledgers import Ledgers, without_names
from pipelines.report.refused import Row, ledger_rows, refused_by_encode
from pipelines.rows.ledger import GENERATION_FIELDS, is_score
from pipelines.rules.columns import is_numeric
from pipelines.steps.select.urls import domains

_COLUMNS = (
    *("shard_id", "row", "key", "url", "caption", "kept", "reason", "rule", "duplicate_of"),
    *("error_message", "sha256", "width", "height"),
)
RANKED_BY = ("aesthetic_v2", "aesthetic_v1", "clip_similarity")
"""The score that best and worst go by: the first that the run has."""
SHOWN_A_REASON = 12
SHOWN_KEPT = 12
SHOWN_RANKED = 12
_GROUPS_A_KIND = 4
_SHOWN_COPIES = 3
SHOWN_PROMPTS = 24


@dataclass(kw_only=True)
class Reason:
    """Rows that one rule dropped for one reason."""

    reason: str
    rule: str | None
    count: int = 0
    rows: list[Row] = field(default_factory=list)


@dataclass(kw_only=True)
class CopyGroup:
    """A kept row (None where it is not in this run) and some of its copies."""

    reason: str
    original: Row | None
    copies: list[Row]


@dataclass(kw_only=True)
class Examples:
    """What is shown, and what is counted on the way."""

    reasons: dict[tuple[str, str | None], Reason] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)
    ranked_by: str | None = None
    kept: list[Row] = field(default_factory=list)
    best: list[Row] = field(default_factory=list)
    median: list[Row] = field(default_factory=list)
    worst: list[Row] = field(default_factory=list)
    groups: list[CopyGroup] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    kept_domains: Counter[str] = field(default_factory=Counter)
    all_domains: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[Row]:
        """Every row that is shown; the same one may come more than once."""
        for reason in self.reasons.values():
            yield from reason.rows
        yield from (*self.kept, *self.best, *self.median, *self.worst, *self.prompts)
        for group in self.groups:
            yield from group.copies
            if group.original is not None:
                yield group.original


def choose_examples(ledgers: Ledgers) -> Examples:
    """Read the ledger once for the rows, and its keys once more for what was copied."""
    names = ledgers.schema.names
    scores = _scores(ledgers)
    ranked_by = next((name for name in RANKED_BY if name in scores), None)
    found = Examples(scores=scores, ranked_by=ranked_by)
    middle = _median(ledgers, found.ranked_by)
    generation = [f.name for f in GENERATION_FIELDS if f.name in names]
    copies: dict[str, dict[str, list[Row]]] = {}
    for table in ledgers.read({*_COLUMNS, *scores, *generation}):
        _count_domains(found, table)
        _add_reasons(found, table)
        _add_copies(copies, table)
        kept = table.filter(table["kept"])
        found.kept = _merge(found.kept, kept, SHOWN_KEPT)
        if found.ranked_by is not None:
            _add_ranked(found, kept, found.ranked_by, middle)
        if generation:
            found.prompts = _merge(found.prompts, kept, SHOWN_PROMPTS)
    found.groups = _groups(ledgers, copies, {*_COLUMNS, *scores})
    _add_refused(found, ledgers)
    return found


def _add_refused(found: Examples, ledgers: Ledgers) -> None:
    """What encode refused of the kept rows."""
    examples = refused_by_encode(ledgers, shown=SHOWN_A_REASON)
    step = ledgers.revision.steps.get("encode")
    for name, count in step.dropped.items() if step is not None else ():
        rows = ledger_rows(ledgers, examples.get(name, []), {*_COLUMNS, *found.scores})
        entry = Reason(reason=name, rule="encode", count=count, rows=rows)
        found.reasons[name, "encode"] = entry


def _scores(ledgers: Ledgers) -> list[str]:
    """Columns of scores that some row has."""
    schema = ledgers.schema
    left = [name for name in schema.names if is_score(name) and is_numeric(schema.field(name).type)]
    found: set[str] = set()
    for table in ledgers.read(left) if left else ():
        found |= {name for name in left if table[name].null_count < table.num_rows}
        if len(found) == len(left):
            break
    return [name for name in left if name in found]


def _median(ledgers: Ledgers, name: str | None) -> float:
    if name is None:
        return 0.0
    values = [
        np.asarray(table.filter(table["kept"])[name].drop_null(), np.float32)
        for table in ledgers.read([name, "kept"])
    ]
    together = np.concatenate(values)
    return float(np.median(together)) if len(together) else 0.0


def _count_domains(found: Examples, table: pa.Table) -> None:
    for counts, rows in (
        (found.all_domains, table),
        (found.kept_domains, table.filter(table["kept"])),
    ):
        urls = rows["url"].drop_null().combine_chunks()
        for pair in pc.value_counts(domains(urls)).to_pylist() if len(urls) else ():
            counts[pair["values"] or "(none)"] += pair["counts"]


def _add_reasons(found: Examples, table: pa.Table) -> None:
    dropped = table.filter(table["reason"].is_valid())
    if not dropped.num_rows:
        return
    rules = without_names(dropped["rule"], dropped["reason"])
    groups = pa.table({"reason": dropped["reason"], "rule": rules})
    for group in groups.group_by(["reason", "rule"]).aggregate([([], "count_all")]).to_pylist():
        name, rule = group["reason"], group["rule"]
        entry = found.reasons.setdefault((name, rule), Reason(reason=name, rule=rule))
        entry.count += group["count_all"]
        same = pc.equal(dropped["reason"], name)
        same_rule = pc.is_null(rules) if rule is None else pc.equal(rules, rule)
        mask = pc.and_(same, pc.fill_null(same_rule, False))
        entry.rows = _merge(entry.rows, dropped.filter(mask), SHOWN_A_REASON)


def _add_ranked(found: Examples, kept: pa.Table, by: str, middle: float) -> None:
    scored = kept.filter(pc.is_finite(pc.fill_null(kept[by], np.nan)))
    near = pc.abs(pc.subtract(scored[by], pa.scalar(middle, pa.float32())))
    scored = scored.append_column("distance", near)
    found.best = _merge(found.best, scored, SHOWN_RANKED, by=(by, "descending"))
    found.median = _merge(found.median, scored, SHOWN_RANKED, by=("distance", "ascending"))
    found.worst = _merge(found.worst, scored, SHOWN_RANKED, by=(by, "ascending"))


def _add_copies(copies: dict[str, dict[str, list[Row]]], table: pa.Table) -> None:
    named = table.filter(table["duplicate_of"].is_valid())
    for reason in pc.unique(named["reason"]).to_pylist():
        rows = named.filter(pc.equal(named["reason"], reason))
        known = copies.setdefault(reason, {})
        originals = {*known, *pc.unique(rows["duplicate_of"]).to_pylist()}
        chosen = sorted(originals)[:_GROUPS_A_KIND]
        for original in chosen:
            same = rows.filter(pc.equal(rows["duplicate_of"], original))
            known[original] = [
                *known.get(original, []),
                *same.slice(0, _SHOWN_COPIES).to_pylist(),
            ][:_SHOWN_COPIES]
        copies[reason] = {original: known[original] for original in chosen}


def _groups(
    ledgers: Ledgers, copies: dict[str, dict[str, list[Row]]], columns: set[str]
) -> list[CopyGroup]:
    wanted = pa.array(sorted({key for group in copies.values() for key in group}), pa.string())
    originals: dict[str, Row] = {}
    for table in ledgers.read(columns) if len(wanted) else ():
        found = table.filter(pc.and_(pc.is_in(table["key"], value_set=wanted), table["kept"]))
        originals |= {row["key"]: row for row in found.to_pylist()}
    return [
        CopyGroup(reason=reason, original=originals.get(key), copies=rows)
        for reason, groups in copies.items()
        for key, rows in groups.items()
    ]


def _merge(
    rows: Sequence[Row], table: pa.Table, count: int, *, by: tuple[str, str] = ("key", "ascending")
) -> list[Row]:
    """The first `count` of the rows so far and the table's."""
    order = [by, *([("key", "ascending")] if by[0] != "key" else [])]
    if table.num_rows > count:
        table = table.take(pc.select_k_unstable(table, count, order))
    sign = -1 if by[1] == "descending" else 1
    both = [*rows, *table.to_pylist()]
    if by[0] == "key":
        return sorted(both, key=lambda row: row["key"])[:count]
    return sorted(both, key=lambda row: (sign * row[by[0]], row["key"]))[:count]
