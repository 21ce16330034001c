"""Copies among the rows that passed every rule: exact, near by hash, near by embedding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rules.columns import array_of, numbers_of
from pipelines.rules.rule import RuleOutcome
from pipelines.run.tables import texts_of
from pipelines.steps.select.config import DuplicatesConfig, Method, ReferenceMethod
from pipelines.steps.select.facts import Facts
from pipelines.steps.select.near_embeddings import RowEmbeddings, near_embeddings
from pipelines.steps.select.near_hashes import HASHED, Pairs, near_pairs
from pipelines.steps.select.ranking import group_sorted, hash_values, order_of
from pipelines.steps.select.references import References
from pipelines.steps.select.spill import Entry, Spill, SpilledRecords
from pipelines.steps.select.stars import settle_stars
from pipelines.steps.select.urls import comparable_urls
from pipelines.steps.select.verdicts import Places, Verdicts

_GROUPED = np.dtype([("high", "<u8"), ("low", "<u8"), ("place", "<i8")])
_REASONS = {
    "url": "duplicate_url",
    "sha256": "duplicate_bytes",
    "phash": "duplicate_phash",
    "embedding": "duplicate_embedding",
}
_PARTITIONS = 64


@dataclass(kw_only=True)
class Duplicates:
    """Collects the rows that passed, then drops those that copy another.

    A row of a reference set has the place -1 - its number.
    """

    config: DuplicatesConfig
    facts: Facts
    verdicts: Verdicts
    references: References
    folder: Path
    _spills: dict[Method, Spill] = field(init=False)
    _order: npt.NDArray[np.uint64] | None = field(init=False, default=None)
    _codes: dict[tuple[str, str], int] = field(init=False)

    def __post_init__(self) -> None:
        methods = dict.fromkeys(self.config.by)
        for name in ("sha256", "phash"):
            if self.references.uses(name):
                methods[name] = None
        self._spills = {
            method: Spill(
                self.folder,
                name=method,
                dtype=HASHED if method == "phash" else _GROUPED,
                num_partitions=_PARTITIONS,
            )
            for method in methods
            if method != "embedding"
        }
        texts = {
            "url": "same url as",
            "sha256": "same sha256 as",
            "phash": f"phash within {self.config.phash_distance} of",
            "embedding": f"embedding within {self.config.embedding_similarity:g} of",
        }
        self._codes = {}
        for kind in ("reference", "run"):
            for method, text in texts.items():
                reason = _REASONS[method] if kind == "run" else "in_reference_set"
                code = self.verdicts.register([RuleOutcome(reason=reason, rule=text)])
                self._codes[kind, method] = code
        if self.config.keep is not None and self.config.by:
            shape = (max(1, self.verdicts.num_rows),)
            self._order = np.memmap(self.folder / "order", np.uint64, mode="w+", shape=shape)

    @property
    def columns(self) -> tuple[str, ...]:
        ordered = (self.config.keep,) if self._order is not None else ()
        return (*self._spills, *(name for name in ordered if name is not None))

    def entries(self, rows: pa.Table, places: Places) -> list[Entry]:
        """Of rows of a shard that no rule on the row itself dropped."""
        if self._order is not None and self.config.keep is not None:
            values = numbers_of(rows, self.config.keep, where="select.duplicates.keep")
            self._order[places] = order_of(values, prefer=self.config.prefer)
        return [
            _entry(spill, method, array_of(rows, method), places)
            for method, spill in self._spills.items()
        ]

    def settle(self) -> None:
        """Drop what is in a reference set, then the copies; call once, after every rule."""
        for method in ("sha256", "phash"):
            for number, values in self.references.columns(method):
                places = -1 - np.arange(number, number + len(values))
                _entry(self._spills[method], method, values, places).add()
        if self.references.uses("sha256"):
            self._settle_same("sha256", as_reference=True)
        for name in ("phash", "embedding"):
            if self.references.uses(name):
                self._drop_near_references(name)
        for method in self.config.by:
            if method in ("url", "sha256"):
                self._settle_same(method)
            elif method == "phash":
                if self.config.phash_needs_similarity is None:
                    self._settle_same("phash")
                self._drop_stars("phash")
            else:
                self._drop_stars("embedding")

    def _settle_same(self, method: Method, *, as_reference: bool = False) -> None:
        """Drop all but the best of the rows that share a value, or those that a reference has."""
        for records in self._spills[method].partitions():
            records = self._alive(records if as_reference else records[records["place"] >= 0])
            grouped = _as_groups(records, None if as_reference else self._order)
            if as_reference:
                grouped["order"] = grouped["place"] >= 0
            found = group_sorted(grouped, ("place", "order", "low", "high"))
            places = found.records["place"]
            firsts = np.repeat(places[found.starts], found.sizes)
            copies = (firsts < 0) & (places >= 0) if as_reference else found.rank > 0
            self.verdicts.drop(
                places[copies],
                code=self._codes["reference" if as_reference else "run", method],
                originals=firsts[copies] + (not as_reference),
            )

    def _drop_near_references(self, method: ReferenceMethod) -> None:
        def crosses(pairs: Pairs) -> npt.NDArray[np.bool_]:
            crossing: npt.NDArray[np.bool_] = (pairs.left < 0) != (pairs.right < 0)
            return crossing

        pairs = self._near(method, of_references=True, wanted=crosses)
        places = np.maximum(pairs.left, pairs.right)
        numbered = np.minimum(pairs.left, pairs.right)
        order = np.lexsort((-numbered, places))  # the first of the reference set counts
        places, at = np.unique(places[order], return_index=True)
        code = self._codes["reference", method]
        self.verdicts.drop(places, code=code, originals=numbered[order][at])

    def _drop_stars(self, method: ReferenceMethod) -> None:
        pairs = self._near(method, of_references=False, wanted=None)
        stars = settle_stars(pairs.left, pairs.right, order=self._order)
        code = self._codes["run", method]
        self.verdicts.drop(stars.dropped, code=code, originals=stars.stands_for + 1)

    def _near(
        self,
        method: ReferenceMethod,
        *,
        of_references: bool,
        wanted: Callable[[Pairs], npt.NDArray[np.bool_]] | None,
    ) -> Pairs:
        if method == "phash":
            found = self._near_hashes(of_references)
        else:
            embeddings = self._embeddings(of_references)
            found = near_embeddings(
                embeddings.batches,
                num_rows=self.verdicts.num_rows,
                similarity=self.config.embedding_similarity,
                folder=self.folder,
            )
        kept = [_select(pairs, wanted(pairs)) if wanted else pairs for pairs in found]
        pairs = _concatenate(kept)
        least = self.config.phash_needs_similarity
        if method != "phash" or least is None or not len(pairs.left):
            return pairs
        cosines = self._embeddings(of_references).cosines(pairs.left, pairs.right)
        return _select(pairs, cosines >= least)

    def _near_hashes(self, of_references: bool) -> Iterator[Pairs]:
        spill = self._spills["phash"]

        def records() -> Iterator[SpilledRecords]:
            for number in range(spill.num_partitions):
                for chunk in spill.chunks(number):
                    kept = chunk if of_references else chunk[chunk["place"] >= 0]
                    yield self._alive(kept)

        return near_pairs(
            records,
            num_records=spill.num_records,
            distance=self.config.phash_distance,
            folder=self.folder,
        )

    def _embeddings(self, of_references: bool) -> RowEmbeddings:
        references = self.references if of_references else None
        return RowEmbeddings(
            facts=self.facts, verdicts=self.verdicts, references=references, folder=self.folder
        )

    def _alive(self, records: SpilledRecords) -> SpilledRecords:
        places = records["place"]
        passed = self.verdicts.codes[np.maximum(places, 0)] == 0
        alive: SpilledRecords = records[passed | (places < 0)]
        return alive


def _entry(spill: Spill, method: Method, values: pa.Array, places: Places) -> Entry:
    if method == "url":
        values = comparable_urls(values)
    there = np.asarray(values.is_valid())
    values, places = values.drop_null(), places[there]
    if method == "phash":
        hashed = np.zeros(len(places), HASHED)
        hashed["hash"] = np.frombuffer(bytes.fromhex(texts_of(values).decode()), ">u8")
        hashed["place"] = places
        return Entry(spill, hashed, (hashed["hash"] % np.uint64(_PARTITIONS)).astype(np.int64))
    records = np.zeros(len(places), _GROUPED)
    if method == "sha256":
        digits = texts_of(pc.utf8_slice_codeunits(values, 0, 32)).decode()
        halves = np.frombuffer(bytes.fromhex(digits), ">u8").reshape(-1, 2)
        records["high"], records["low"] = halves[:, 0], halves[:, 1]
    elif len(places):
        records["high"], records["low"] = hash_values(values)
    records["place"] = places
    return Entry(spill, records, (records["high"] % np.uint64(_PARTITIONS)).astype(np.int64))


def _as_groups(records: SpilledRecords, order: npt.NDArray[np.uint64] | None) -> SpilledRecords:
    dtype = [("high", "<u8"), ("low", "<u8"), ("order", "<u8"), ("place", "<i8")]
    grouped = np.zeros(len(records), dtype)
    is_hash = "hash" in (records.dtype.names or ())
    grouped["high"] = records["hash" if is_hash else "high"]
    grouped["low"] = 0 if is_hash else records["low"]
    grouped["place"] = records["place"]
    if order is not None:
        grouped["order"] = order[records["place"]]
    return grouped


def _select(pairs: Pairs, chosen: npt.NDArray[np.bool_]) -> Pairs:
    return Pairs(left=pairs.left[chosen], right=pairs.right[chosen])


def _concatenate(found: list[Pairs]) -> Pairs:
    none = np.empty(0, np.int64)
    return Pairs(
        left=np.concatenate([none, *(pairs.left for pairs in found)]),
        right=np.concatenate([none, *(pairs.right for pairs in found)]),
    )
