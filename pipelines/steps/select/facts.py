"""What is known of a run's rows: facts of the first step with the scores beside them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.rows.claims import CLAIMED_SCORES, claimed_or_scored
from pipelines.rows.ledger import (
    DOWNLOAD_FACTS,
    LEDGER,
    QUARANTINED,
    RECAPTION,
    ROW_FAILED,
    TOKEN_FIELDS,
    source_fields,
    trained_captions,
)
from pipelines.rules.columns import VERDICT_COLUMNS
from pipelines.run.committed import Committed
from pipelines.run.manifest import FileEntry, Manifest, ShardError
from pipelines.run.on_threads import NUM_CORES, in_order
from pipelines.run.tables import read_parquet, with_column
from pipelines.steps.select.read_ahead import ReadAhead
from pipelines.steps.select.recaptions import Recaptions
from pipelines.steps.select.tokens import TokenColumns

ResultT = TypeVar("ResultT")
EMBEDDING = "embedding"
_SCORE_REJECTS = "facts/score/rejects"
_ALWAYS = ("row", "reason", "rule")
_TOKENS = frozenset(field.name for field in TOKEN_FIELDS)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Reads the facts of a run, a shard at a time.

    Attributes:
        images: The step that made the images.
        score: The score step; None where nothing is scored.
        read_rows: Rows of a shard whose first step was quarantined.
        files: What opens the files.
        schema: Of that step's facts, without the list's own columns.
        tokens: Counts the captions' tokens; None: they are null.
        further: Columns that only this run's ledger has.
        recaptions: Captions from elsewhere, the column `RECAPTION`; None where there are none.
    """

    images: Committed
    num_shards: int
    score: Committed | None
    read_rows: Callable[[int], pa.Table]
    files: ReadAhead
    schema: pa.Schema = field(default=DOWNLOAD_FACTS)
    tokens: TokenColumns | None = None
    further: Sequence[pa.Field] = ()
    recaptions: Recaptions | None = None

    @cached_property
    def ledger(self) -> pa.Schema:
        """The ledger's columns, without those of the list."""
        return pa.schema([*LEDGER, *self.further])

    @cached_property
    def shard_sizes(self) -> list[int]:
        return [self.images.manifest(shard_id).rows_in for shard_id in range(self.num_shards)]

    def is_lost(self, shard_id: int) -> bool:
        """Whether no row of the shard has facts to go by."""
        return self.images.manifest(shard_id).quarantined is not None

    def in_order(
        self, work: Callable[[int], ResultT], shard_ids: Sequence[int]
    ) -> Iterator[ResultT]:
        """`work` of each shard, on a few threads, while the files of those after are fetched."""

        def on_shard(shard_id: int) -> ResultT:
            try:
                return work(shard_id)
            finally:
                self.files.release(self._files_of(shard_id))

        ahead = self.files.shards(shard_ids, self._files_of)
        return in_order(on_shard, ahead, num_threads=NUM_CORES)

    def keys(self, shard_id: int) -> pa.ChunkedArray:
        """Those of a shard that has facts, in plan order."""
        manifest = self.images.manifest(shard_id)
        return self._read(manifest, f"facts/{self.images.step}", {"key"})["key"]

    def _files_of(self, shard_id: int) -> Iterator[FileEntry]:
        made = (self.images, f"facts/{self.images.step}"), (self.score, "facts/score")
        for step, folder in made:
            entry = None if step is None else step.manifest(shard_id).file(folder)
            if entry is not None:
                yield entry

    def read(self, shard_id: int, *, columns: Iterable[str] | None = None) -> pa.Table:
        """A shard's rows, in plan order; columns of the ledger that nothing made are null.

        Args:
            shard_id: Which.
            columns: Only these (and row, reason, rule), in any case, as SQL names them; by default
                all that the ledger has.
        """
        wanted = None
        if columns is not None:
            wanted = self._with_sources({name.lower() for name in (*columns, *_ALWAYS)})
        rows = _with_claims(self._scored(shard_id, wanted))
        if self.recaptions is not None and RECAPTION.name in rows.column_names:
            rows = with_column(rows, RECAPTION.name, self.recaptions.of(rows))
        counted = _TOKENS if wanted is None else _TOKENS & wanted
        if self.tokens is None or not counted:
            return rows
        captions = trained_captions(rows)
        for name, found in self.tokens.of(shard_id, captions, is_last=columns is None).items():
            if name in counted:
                rows = with_column(rows, name, found)
        return rows

    def _with_sources(self, wanted: set[str]) -> set[str]:
        """The columns to be read so that the wanted ones can be made."""
        wanted = wanted | {source for name, source in CLAIMED_SCORES.items() if name in wanted}
        if wanted & _TOKENS:
            wanted |= {"caption", RECAPTION.name}
        return wanted | ({"key", "url"} if RECAPTION.name in wanted else set())

    def _scored(self, shard_id: int, wanted: set[str] | None) -> pa.Table:
        manifest = self.images.manifest(shard_id)
        if manifest.quarantined is not None:
            return self._with_scores(self._lost_rows(shard_id), None, wanted)
        facts = self._read(manifest, f"facts/{self.images.step}", wanted)
        if self.score is None:
            return self._with_scores(facts, None, wanted)
        score = self.score.manifest(shard_id)
        if score.quarantined is None:
            known = [*self.ledger.names, "row"] if wanted is None else wanted
            scores = self._read(score, "facts/score", {*known} - {"shard_id", "key"} | {"row"})
            if score.file(_SCORE_REJECTS) is not None:
                facts = _with_rejects(facts, self._read(score, _SCORE_REJECTS, None))
            return self._with_scores(facts, scores, wanted)
        facts = with_column(facts, "reason", pc.fill_null(facts["reason"], QUARANTINED))
        return self._with_scores(facts, None, wanted)

    def _with_scores(
        self, facts: pa.Table, scores: pa.Table | None, wanted: set[str] | None
    ) -> pa.Table:
        """The facts with every other column of the ledger beside them, null where there is none."""
        positions: pa.Array | None = None
        if scores is not None and not scores["row"].equals(facts["row"]):
            positions = positions_in(scores, facts)
        for kind in list(self._lacking(facts, wanted)):
            if scores is None or kind.name not in scores.column_names:
                facts = facts.append_column(kind, pa.nulls(facts.num_rows, kind.type))
                continue
            column = scores[kind.name].combine_chunks()
            if positions is not None:
                column = column.take(positions)
            facts = facts.append_column(kind, column)
        return facts

    def _lacking(self, facts: pa.Table, wanted: set[str] | None) -> Iterator[pa.Field]:
        for kind in self.ledger:
            is_wanted = wanted is None or kind.name in wanted
            is_there = kind.name in facts.column_names or kind.name in VERDICT_COLUMNS
            if is_wanted and not is_there:
                yield kind

    def read_embeddings(self, shard_id: int, rows: npt.NDArray[np.integer]) -> "RunEmbeddings":
        """The embeddings of those of the rows that have one, normalised.

        Raises:
            ShardError: the score step kept no embeddings.
        """
        if self.score is None:
            raise ShardError("duplicates by embedding: the run has no scores; configure `score`")
        score = self.score.manifest(shard_id)
        if score.quarantined is not None or not len(rows):
            return RunEmbeddings.none()
        table = self._read(score, "facts/score", {"row", EMBEDDING})
        return embeddings_of(table, rows, where=f"score shard {shard_id}")

    def _lost_rows(self, shard_id: int) -> pa.Table:
        rows = self.read_rows(shard_id)
        columns = {name: rows[name] for name in rows.column_names}
        columns["shard_id"] = pa.array(np.full(rows.num_rows, shard_id, np.int32))
        columns["reason"] = pa.array([QUARANTINED] * rows.num_rows)
        fields = [*self.schema, *source_fields(rows.schema)]
        arrays = [
            columns[field.name].cast(field.type)
            if field.name in columns
            else pa.nulls(rows.num_rows, field.type)
            for field in fields
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))

    def _read(self, manifest: Manifest, folder: str, wanted: set[str] | None) -> pa.Table:
        entry = manifest.file(folder)
        if entry is None:
            raise ShardError(f"{manifest.step} shard {manifest.shard_id} has no file in {folder}")
        with self.files.open(entry) as stream:
            asked = None if wanted is None else lambda name: name.lower() in wanted
            return read_parquet(stream, columns=asked)


@dataclass(frozen=True, kw_only=True)
class RunEmbeddings:
    """Rows and their embeddings.

    Attributes:
        rows: Ascending.
        vectors: (len(rows), dim) float32, of length 1.
    """

    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]

    @staticmethod
    def none() -> "RunEmbeddings":
        return RunEmbeddings(rows=np.empty(0, np.int64), vectors=np.empty((0, 0), np.float32))


def embeddings_of(table: pa.Table, rows: npt.NDArray[np.integer], *, where: str) -> RunEmbeddings:
    """Take rows of a table of `row` and `embedding`; those without a finite one are left out.

    Raises:
        ShardError: the column is missing, or not a list of one length; says `where`.
    """
    if EMBEDDING not in table.column_names:
        raise ShardError(f"{where}: no {EMBEDDING} column; set score.embeddings: true")
    kind = table.schema.field(EMBEDDING).type
    if not pa.types.is_fixed_size_list(kind):
        raise ShardError(f"{where}: {EMBEDDING} is {kind}, not a list of one length")
    table = table.filter(pc.is_in(table["row"], value_set=pa.array(rows, table["row"].type)))
    table = table.filter(table[EMBEDDING].is_valid()).sort_by("row")
    if not table.num_rows:
        return RunEmbeddings.none()
    column = pa.concat_arrays(table[EMBEDDING].chunks)
    vectors = np.asarray(column.flatten()).reshape(-1, kind.list_size).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    good = np.isfinite(lengths[:, 0]) & (lengths[:, 0] > 0)
    return RunEmbeddings(
        rows=np.asarray(table["row"]).astype(np.int64)[good], vectors=vectors[good] / lengths[good]
    )


def _with_rejects(facts: pa.Table, rejects: pa.Table) -> pa.Table:
    """The facts with the reason and the error of the rows that score refused."""
    at = positions_in(rejects, facts)
    columns = {"reason": pc.if_else(pc.is_valid(at), ROW_FAILED, pa.scalar(None, pa.string()))}
    columns["error_message"] = rejects["error_message"].combine_chunks().take(at)
    for name in ("reason", "error_message"):
        place = facts.schema.get_field_index(name)
        if place >= 0:
            told = pc.coalesce(facts[name], columns[name])
            facts = facts.set_column(place, facts.schema.field(place), told)
    return facts


def _with_claims(facts: pa.Table) -> pa.Table:
    for name in CLAIMED_SCORES:
        at = facts.schema.get_field_index(name)
        if at >= 0:
            facts = facts.set_column(at, LEDGER.field(name), claimed_or_scored(facts, name))
    return facts


def positions_in(scores: pa.Table, facts: pa.Table) -> pa.Array:
    """Where among the scores each `row` of the facts is; null where it has none."""
    rows, scored = np.asarray(facts["row"]), np.asarray(scores["row"])
    order = np.argsort(scored, kind="stable")
    found = np.searchsorted(scored[order], rows)
    found[found == len(scored)] = 0
    at = order[found] if len(scored) else np.zeros(len(rows), np.int64)
    absent = scored[at] != rows if len(scored) else np.ones(len(rows), np.bool_)
    return pa.array(at, mask=absent)
