"""A plan that is being made: files and shards so far, and the end that `--limit` sets."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pipelines.plan.duplicates import DuplicateFinder
from pipelines.plan.inputs import file_num_bytes, file_sha256, file_token
from pipelines.plan.record import PlanError, PlannedFile
from pipelines.rows.keys import hash_rows
from pipelines.sources.columns import SourceColumn, TextColumns, name_source_columns, widen
from pipelines.sources.config import MAX_COLUMNS
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import READER, ScannedRange, SourceRange
from pipelines.sources.source import Source


@dataclass(kw_only=True)
class PlanDraft:
    """A plan being made.

    Attributes:
        limit: After how many rows it ends; None: it has all.
        is_cut: Whether the list goes on.
        uncut_rows: Of the last shard, see `SourceRange`.
    """

    rows_per_shard: int
    finder: DuplicateFinder
    files: list[PlannedFile] = field(default_factory=list)
    shards: list[SourceRange] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    limit: int | None = None
    is_cut: bool = False
    uncut_rows: int | None = None

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)

    @property
    def is_full(self) -> bool:
        """Whether it has as many rows as it may."""
        return self.limit is not None and self.num_rows >= self.limit

    def add_file(self, source: Source, file: SourceFile) -> None:
        token = file_token(file)
        digest = file_sha256(file)
        num_rows, has_too_large = 0, False
        text_columns = TextColumns(url=None, caption=None)
        for scanned in source.scan(file, rows_per_shard=self.rows_per_shard):
            if self.is_full:
                self.is_cut = True
                break
            num_rows += self.add_range(file, scanned)
            text_columns = scanned.text_columns
            has_too_large |= bool(scanned.too_large)
        if token != file_token(file):
            raise PlanError(f"{file.uri}: changed while it was being planned; start again")
        self.files.append(
            PlannedFile(
                name=file.name,
                uri=file.uri,
                sha256=digest,
                num_bytes=file_num_bytes(file),
                token=token,
                num_rows=num_rows,
                text_columns=text_columns,
                reader=READER,
                max_cell_bytes=source.config.max_cell_bytes if has_too_large else None,
            )
        )

    def add_range(self, file: SourceFile, scanned: ScannedRange, *, reader: int = READER) -> int:
        """Make a shard of a range of a file, or add it to the last one; returns its rows."""
        shard_id = len(self.shards) - (not scanned.begins_shard)
        raw, uncut_rows = scanned.raw, None
        if self.limit is not None and len(raw.url) > (left := self.limit - self.num_rows):
            raw, uncut_rows, self.is_cut = raw.part(0, left), len(raw.url), True
        texts = raw.key_texts(file=file.name, start_row=scanned.start_row)
        begun = None if scanned.begins_shard else self.shards.pop()
        if uncut_rows is not None:
            self.uncut_rows = uncut_rows + (begun.num_rows if begun else 0)
        self.finder.add(
            hash_rows(texts),
            shard_id=shard_id,
            first_row=begun.num_rows if begun else 0,
            usable=pc.is_null(raw.reason).to_numpy(zero_copy_only=False),
        )
        for name, kind in scanned.types.items():
            self.types[name] = widen(self.types.get(name, ""), kind)
        if len(self.types) > MAX_COLUMNS:
            raise PlanError(f"{file.uri}: more than {MAX_COLUMNS:,} columns with those before it")
        self.shards.append(
            SourceRange(
                shard_id=shard_id,
                file=file.name,
                start_row=(begun or scanned).start_row,
                num_rows=len(texts) + (begun.num_rows if begun else 0),
                start_byte=(begun or scanned).start_byte,
                end_byte=scanned.end_byte,
                reader=reader,
                mark=scanned.mark,
            )
        )
        self.notes.update(scanned.notes)
        return len(texts)

    def columns(self, content_hash: str | None) -> tuple[SourceColumn, ...]:
        """The list's other columns, with the types that were met."""
        types = {name: kind or "string" for name, kind in self.types.items()}
        if content_hash in types:
            types[content_hash] = "string"  # a digest may look like a number
        return name_source_columns(types)
