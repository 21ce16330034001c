"""Rules that compare rows: the best of the run or of each group, caps on domains."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rules.columns import Numbers, array_of, check_known, check_numeric, numbers_of
from pipelines.rules.ranked_rules import Prefer
from pipelines.rules.rule import RuleOutcome
from pipelines.run.tables import texts_of
from pipelines.steps.select.spill import Entry, Spill, SpilledRecords
from pipelines.steps.select.urls import domains
from pipelines.steps.select.verdicts import Places, Verdicts

DOMAIN = "(domain)"
_RANKED = np.dtype(
    [("high", "<u8"), ("low", "<u8"), ("order", "<u8"), ("tie", "<u8"), ("place", "<i8")]
)
_SIGN = np.uint64(1 << 63)
_WORST = np.uint64(2**64 - 1)
_KEY_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The best `num_images` or `fraction` of the run, or of each group, stay.

    Attributes:
        by: Column of numbers; None: the first in plan order are the best.
        per: Column that makes a group, `DOMAIN` for the URL's; None: the whole run is one.
        where: The key that it is configured by.
    """

    by: str | None
    per: str | None
    num_images: int | None
    fraction: float | None
    prefer: Prefer
    outcome: RuleOutcome
    where: str

    @property
    def columns(self) -> tuple[str, ...]:
        group = ("url",) if self.per == DOMAIN else (self.per,)
        return tuple(name for name in ("key", self.by, *group) if name is not None)

    @property
    def outcomes(self) -> tuple[RuleOutcome, ...]:
        """Why it drops rows."""
        return (self.outcome,)

    def check(self, types: Mapping[str, pa.DataType]) -> None:
        """Raise `ConfigError` where it does not go with columns of these names and types."""
        if self.by is not None:
            check_known(self.by, types, where=f"{self.where}.by")
            check_numeric(types[self.by], self.by, where=f"{self.where}.by")
        if self.per not in (None, DOMAIN):
            check_known(str(self.per), types, where=f"{self.where}.per")

    def size_of(self, num_rows: int) -> int:
        """How many of so many rows stay."""
        if self.num_images is not None:
            return self.num_images
        return math.ceil(Fraction(str(self.fraction)) * num_rows)


class Contest:
    """The rows of the whole run that come before one `Ranked` rule."""

    def __init__(self, rule: Ranked, *, code: int, folder: Path) -> None:
        self._rule, self._code = rule, code
        partitions = 1 if rule.per is None else 64
        self._spill = Spill(folder, name=f"ranked-{code}", dtype=_RANKED, num_partitions=partitions)

    def entry(self, rows: pa.Table, places: Places) -> Entry:
        """Of rows that no rule on the row itself, of those before this one, dropped."""
        rule = self._rule
        records = np.zeros(len(places), _RANKED)
        records["place"] = places
        if rule.by is not None:
            values = numbers_of(rows, rule.by, where=rule.where)
            records["order"] = order_of(values, prefer=rule.prefer)
            records["tie"] = _key_order(array_of(rows, "key"))
        numbers = np.zeros(len(records), np.int64)
        if rule.per is not None:
            groups = array_of(rows, "url" if rule.per == DOMAIN else rule.per)
            groups = domains(groups) if rule.per == DOMAIN else groups
            records["high"], records["low"] = hash_values(groups)
            records = records[np.asarray(groups.is_valid())]
            numbers = (records["high"] % np.uint64(64)).astype(np.int64)
        return Entry(self._spill, records, numbers)

    def settle(self, verdicts: Verdicts) -> None:
        """Drop those that are not among the best; rules before this one are settled."""
        settle = self._settle_run if self._rule.per is None else self._settle_groups
        for places in settle(verdicts):
            verdicts.drop(places, code=self._code)
        self._spill.remove()

    def _settle_groups(self, verdicts: Verdicts) -> Iterator[Places]:
        for records in self._spill.partitions():
            records = records[verdicts.alive(records["place"], before=self._code)]
            groups = group_sorted(records, ("place", "tie", "order", "low", "high"))
            sizes = np.array([self._rule.size_of(n) for n in groups.sizes.tolist()], np.int64)
            yield groups.records["place"][groups.rank >= np.repeat(sizes, groups.sizes)]

    def _settle_run(self, verdicts: Verdicts) -> Iterator[Places]:
        def chunks() -> Iterator[SpilledRecords]:
            for chunk in self._spill.chunks(0):
                yield chunk[verdicts.alive(chunk["place"], before=self._code)]

        cut = _cut(chunks, self._rule)
        left = cut.equal
        for chunk in chunks():
            order, tie = chunk["order"], chunk["tie"]
            worse = (order > cut.order) | ((order == cut.order) & (tie > cut.tie))
            equal = np.flatnonzero((order == cut.order) & (tie == cut.tie))
            worse[equal[left:]] = True
            left = max(0, left - len(equal))
            yield chunk["place"][worse]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Records in order with each one's rank in its group, and the groups' sizes."""

    records: SpilledRecords
    rank: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def group_sorted(records: SpilledRecords, fields: tuple[str, ...]) -> Groups:
    """Sort by fields, the last the first to go by; the groups are those of `high` and `low`."""
    records = records[np.lexsort([records[name] for name in fields])]
    high, low = records["high"], records["low"]
    is_first = np.ones(len(records), np.bool_)
    is_first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    starts = np.flatnonzero(is_first)
    sizes = np.diff(np.append(starts, len(records)))
    rank = np.arange(len(records)) - np.repeat(starts, sizes)
    return Groups(records=records, rank=rank, starts=starts, sizes=sizes)


def order_of(values: Numbers, *, prefer: Prefer) -> npt.NDArray[np.uint64]:
    """Unsigned numbers of which the least is the best; what is missing is the worst."""
    data = values.data
    if np.issubdtype(data.dtype, np.floating):
        bits = (data.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: there is one zero
        ascending = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    elif np.issubdtype(data.dtype, np.unsignedinteger) or data.dtype == np.bool_:
        ascending = data.astype(np.uint64)
    else:
        ascending = data.astype(np.int64).view(np.uint64) ^ _SIGN
    order = ~ascending if prefer == "highest" else ascending
    return np.where(values.is_missing, _WORST, np.minimum(order, _WORST - np.uint64(1)))


def hash_values(column: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """128 bits of each value, as two columns; those of null mean nothing."""
    encoded = pc.dictionary_encode(pc.cast(column, pa.string()))
    blake2b = hashlib.blake2b
    digests = [blake2b(v.encode(), digest_size=16).digest() for v in encoded.dictionary.to_pylist()]
    halves = np.frombuffer(b"".join(digests) or bytes(16), "<u8").reshape(-1, 2)
    found = halves[np.asarray(pc.fill_null(encoded.indices, 0))]
    return found[:, 0], found[:, 1]


def _key_order(keys: pa.Array) -> npt.NDArray[np.uint64]:
    """The first 16 characters as a number: hex digits by value, any others by their first bytes."""
    heads = pc.utf8_slice_codeunits(keys, 0, _KEY_CHARACTERS)
    is_hex = np.asarray(pc.match_substring_regex(heads, "^[0-9a-f]{16}$"), np.bool_)
    order = np.empty(len(keys), np.uint64)
    digits = texts_of(heads.filter(pa.array(is_hex))).decode()
    order[is_hex] = np.frombuffer(bytes.fromhex(digits), ">u8")
    others = heads.filter(pa.array(~is_hex)).to_pylist()
    order[~is_hex] = [int.from_bytes(head.encode()[:8].ljust(8, b"\0"), "big") for head in others]
    return order


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """The last row that stays: of those equal to it, the first `equal` do."""

    order: np.uint64
    tie: np.uint64
    equal: int


def _cut(chunks: Callable[[], Iterator[SpilledRecords]], rule: Ranked) -> _Cut:
    """Find the cut by counting, 16 bits at a time, so that nothing is held per row."""
    remaining = rule.size_of(sum(len(chunk) for chunk in chunks()))
    found = {"order": np.uint64(0), "tie": np.uint64(0)}
    for field in ("order", "tie"):
        for shift in (48, 32, 16, 0):
            counts = np.zeros(1 << 16, np.int64)
            for chunk in chunks():
                inside = chunk if field == "order" else chunk[chunk["order"] == found["order"]]
                values = inside[field]
                if shift < 48:
                    above = np.uint64(shift + 16)
                    values = values[values >> above == found[field] >> above]
                digits = (values >> np.uint64(shift)) & np.uint64(0xFFFF)
                counts += np.bincount(digits.astype(np.int64), minlength=1 << 16)
            reached = np.cumsum(counts)
            if remaining > reached[-1]:  # all of them stay
                return _Cut(order=_WORST, tie=_WORST, equal=remaining)
            digit = int(np.searchsorted(reached, remaining))
            remaining -= int(reached[digit] - counts[digit])
            found[field] |= np.uint64(digit << shift)
    return _Cut(order=found["order"], tie=found["tie"], equal=remaining)
