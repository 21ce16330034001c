"""Growth: the shards of a plan stay as they are, and new rows of the list make new ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from pipelines.plan.draft import PlanDraft
from pipelines.plan.duplicates import DuplicateFinder
from pipelines.plan.inputs import check_source_options, file_num_bytes, file_sha256, file_token
from pipelines.plan.make import store_draft
from pipelines.plan.record import Plan, PlanError, PlannedFile
from pipelines.rows.keys import hash_rows, hex_keys
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.sources.columns import TextColumns, widen
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import READER, RawRows, ScannedRange, SourceRange
from pipelines.sources.source import Source

_LINE_END_BYTES = 8  # a text that ended without one has got it since: CR LF in UTF-32 at most

SameRows = Callable[[int, Sequence[str]], bool]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What became of a plan.

    Attributes:
        plan: The plan as it is now.
        new_rows: Rows that it did not have.
        ignored: Columns that are new in the list; a run's columns stay what they were.
    """

    plan: Plan
    new_rows: int = 0
    ignored: tuple[str, ...] = ()


def grow_plan(
    before: Plan,
    source: Source,
    *,
    store: RunStore,
    same_rows: SameRows,
    before_store: Callable[[], None],
) -> Growth:
    """Add what is new in the list: new files, and rows after those that a file had.

    Args:
        before: The plan so far.
        source: The list as it is now.
        store: The run.
        same_rows: Whether a planned shard has rows of these keys, as far as the run knows; asked
            of shards in files that have changed.
        before_store: Called when there is something new, before anything is written.

    Raises:
        PlanError: a planned file is gone, or is not what it was with rows behind it.
    """
    check_source_options(before, source)
    try:
        found = {file.name: file for file in source.files}
        gone = [file.uri for file in before.files if file.name not in found]
        if gone:
            raise PlanError(
                f"{', '.join(gone)}: planned, and gone now; put it back to grow the run"
            )
        tokens = {name: file_token(file) for name, file in found.items()}
        changed = [file for file in found.values() if _has_changed(before, file, tokens)]
        if not changed:
            return Growth(plan=before)
        with spool_folder() as folder, DuplicateFinder(folder) as finder:
            growing = _Growing(before, source, finder, same_rows)
            growing.add_known_shards({file.name for file in changed})
            growing.add_new_rows(changed, tokens)
            if not growing.num_new:
                raise PlanError(
                    f"{changed[0].uri}: its bytes have changed, and there are no new rows in it; "
                    "put it back as it was"
                )
            plan = store_draft(
                growing.draft,
                source,
                store,
                before_store=lambda columns: before_store(),
                grown=before,
            )
    except SourceError as error:
        raise PlanError(str(error)) from error
    return Growth(plan=plan, new_rows=growing.num_new, ignored=tuple(sorted(growing.ignored)))


def _has_changed(before: Plan, file: SourceFile, tokens: dict[str, str]) -> bool:
    planned = {planned.name: planned for planned in before.files}.get(file.name)
    if planned is None:
        return True
    if planned.token and planned.token == tokens[file.name]:
        return False
    return file_sha256(file) != planned.sha256


class _Growing:
    """A plan that is being added to."""

    def __init__(
        self, before: Plan, source: Source, finder: DuplicateFinder, same_rows: SameRows
    ) -> None:
        self.draft = PlanDraft(
            rows_per_shard=before.rows_per_shard,
            finder=finder,
            types={column.input: column.type for column in before.columns},
        )
        self.num_new = 0
        self.ignored: set[str] = set()
        self._before = before
        self._source = source
        self._same_rows = same_rows
        self._planned = {file.name: file for file in before.files}
        self._ends: dict[str, SourceRange] = {}

    def add_known_shards(self, changed: set[str]) -> None:
        """Take in the planned shards, in their order; rows of changed files are held to be same."""
        for shard_id in range(self._before.num_shards):
            where = self._before.shard(shard_id)
            raw, where = self._read_known(where, is_changed=where.file in changed)
            texts = raw.key_texts(file=where.file, start_row=where.start_row)
            hashes = hash_rows(texts)
            if where.file in changed and not self._same_rows(
                shard_id, hex_keys(hashes.key).to_pylist()
            ):
                raise PlanError(_not_the_same(where))
            usable = pc.is_null(raw.reason).to_numpy(zero_copy_only=False)
            self.draft.finder.add(hashes, shard_id=shard_id, usable=usable)
            self.draft.shards.append(where)
            end = self._ends.get(where.file)
            if end is None or where.start_row > end.start_row:
                self._ends[where.file] = where
        self.draft.files += self._before.files

    def _read_known(self, where: SourceRange, *, is_changed: bool) -> tuple[RawRows, SourceRange]:
        columns = self._before.text_columns(where.file)
        longer = _LINE_END_BYTES if is_changed and where.end_byte is not None else 0
        for more in range(longer + 1):
            end_byte = None if where.end_byte is None else where.end_byte + more
            candidate = replace(where, end_byte=end_byte)
            try:
                raw = self._source.read_raw(candidate, text_columns=columns)
            except SourceError:
                if more == longer:
                    raise
                continue
            if len(raw.url) == where.num_rows:
                return raw, candidate
            break
        raise PlanError(_not_the_same(where))

    def add_new_rows(self, changed: list[SourceFile], tokens: dict[str, str]) -> None:
        """Cut the rows behind those that are known into new shards."""
        for file in changed:
            digest, planned = file_sha256(file), self._planned.get(file.name)
            num_before = num_rows = 0 if planned is None else planned.num_rows
            text_columns = None if planned is None else planned.text_columns
            reader = READER if planned is None else planned.reader
            has_too_large = False
            for scanned in self._new_ranges(file, num_before, reader):
                has_too_large |= bool(scanned.too_large)
                self._check_types(file, scanned)
                if text_columns not in (None, scanned.text_columns):
                    raise PlanError(f"{file.uri}: its URL and caption columns have changed")
                text_columns = scanned.text_columns
                num_rows += self.draft.add_range(file, scanned, reader=reader)
            if tokens[file.name] != file_token(file):
                raise PlanError(f"{file.uri}: changed while it was being planned; start again")
            self.num_new += num_rows - num_before
            limit = None if planned is None else planned.max_cell_bytes
            self._replace_file(
                PlannedFile(
                    name=file.name,
                    uri=file.uri,
                    sha256=digest,
                    num_bytes=file_num_bytes(file),
                    token=tokens[file.name],
                    num_rows=num_rows,
                    text_columns=text_columns or TextColumns(url=None, caption=None),
                    reader=reader,
                    max_cell_bytes=self._source.config.max_cell_bytes if has_too_large else limit,
                )
            )

    def _new_ranges(self, file: SourceFile, num_before: int, reader: int) -> Iterator[ScannedRange]:
        rows_per_shard = self._before.rows_per_shard
        for scanned in self._source.scan(
            file, rows_per_shard=rows_per_shard, reader=reader, known_rows=num_before
        ):
            skip = max(0, num_before - scanned.start_row)
            planned = self._planned.get(file.name)
            is_known = any(row < skip for row in scanned.too_large)
            if is_known and planned is not None and planned.max_cell_bytes is None:
                raise PlanError(
                    f"{file.uri}: was planned by an earlier version with cells of more than "
                    f"{self._source.config.max_cell_bytes} bytes, which this one does not read; "
                    "give another `output`"
                )
            if skip >= len(scanned.raw.url):
                continue
            if not skip:
                is_first = scanned.start_row == num_before
                yield replace(scanned, begins_shard=scanned.begins_shard or is_first)
                continue
            yield replace(
                scanned,
                start_row=num_before,
                raw=scanned.raw.part(skip),
                start_byte=self._ends[file.name].end_byte,
                begins_shard=True,
            )

    def _check_types(self, file: SourceFile, scanned: ScannedRange) -> None:
        for name, kind in scanned.types.items():
            known = self.draft.types.get(name)
            if known is None:
                self.ignored.add(name)
            elif widen(known, kind) != known:
                raise PlanError(
                    f"{file.uri}: the column {name} is {kind} in the new rows, and the run has it "
                    f"as {known}; make it {known}, or give another `output`"
                )

    def _replace_file(self, file: PlannedFile) -> None:
        """Put a file's present state in the place of its earlier one, or at the end."""
        files = self.draft.files
        at = next((i for i, known in enumerate(files) if known.name == file.name), len(files))
        files[at : at + 1] = [file]


def _not_the_same(where: SourceRange) -> str:
    last = where.start_row + where.num_rows - 1
    return (
        f"{where.file}: rows {where.start_row} to {last} are not those that were planned. A run "
        "grows by new files and by rows at the end of a file; put the others back as they were, "
        "or give another `output`"
    )
