"""A list of prompts as it is read: its files, their parts, and what each column is for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.plan import PlanError
from pipelines.plan.inputs import file_sha256, file_token
from pipelines.prompts.columns import find_settings
from pipelines.prompts.record import PromptFile, PromptPlan
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn, TextColumns, name_source_columns, widen
from pipelines.sources.rows import READER, SourceRange
from sd_core.say import Say

_READ_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class ScannedPrompts:
    """The list's files, the parts to read them in, and the stored type of each other column."""

    files: tuple[PromptFile, ...]
    ranges: list[tuple[SourceRange, TextColumns]]
    types: Mapping[str, str]

    @property
    def num_rows(self) -> int:
        """Of the whole list."""
        return sum(where.num_rows for where, _ in self.ranges)

    def tables(
        self, source: Source, columns: Sequence[SourceColumn], *, first: int, end: int | None
    ) -> Iterator[pa.Table]:
        """The list's rows from `first` on, up to before `end`, a part at a time."""
        at = 0
        for where, text_columns in self.ranges:
            skip = max(0, first - at)
            stop = where.num_rows if end is None else min(where.num_rows, end - at)
            at += where.num_rows
            if skip < stop:
                rows = source.read_rows(where, text_columns=text_columns, columns=columns)
                yield rows.slice(skip, stop - skip)


@dataclass(frozen=True, kw_only=True)
class PromptColumns:
    """The list's columns as they are read, and those that pass through."""

    read: tuple[SourceColumn, ...]
    stored: tuple[SourceColumn, ...]
    raw: Mapping[str, str]
    """Setting to the name of the column that it is read from."""


def scan_prompts(source: Source, *, before: PromptPlan | None, say: Say) -> ScannedPrompts:
    """Go over every file once; what no row carries, or not as it is, is said.

    Args:
        before: The plan that is grown, whose files are read as they were then.

    Raises:
        SourceError: a file cannot be read.
        PlanError: one changes meanwhile.
    """
    files, ranges = [], []
    types: dict[str, str] = {}
    notes: Counter[str] = Counter()
    readers = {} if before is None else {file.name: file.reader for file in before.files}
    for file in source.files:
        reader = readers.get(file.name, READER)
        token, digest = file_token(file), file_sha256(file)
        files.append(
            PromptFile(name=file.name, uri=file.uri, sha256=digest, token=token, reader=reader)
        )
        found, limit = [], None
        for scanned in source.scan(file, rows_per_shard=_READ_ROWS, reader=reader):
            notes.update(scanned.notes)
            limit = source.config.max_cell_bytes if scanned.too_large else limit
            where = SourceRange(
                shard_id=0,  # ours are cut by images, not by rows
                file=file.name,
                start_row=scanned.start_row,
                num_rows=len(scanned.raw.url),
                start_byte=scanned.start_byte,
                end_byte=scanned.end_byte,
                reader=reader,
            )
            found.append((where, scanned.text_columns))
            for name, kind in scanned.types.items():
                types[name] = widen(types.get(name, ""), kind)
        if file_token(file) != token:
            raise PlanError(f"{file.uri}: changed while it was read; start again")
        ranges += [(replace(where, max_cell_bytes=limit), columns) for where, columns in found]
    for note, count in notes.items():
        say(f"prompts: {note} ({count:,})")
    return ScannedPrompts(files=tuple(files), ranges=ranges, types=types)


def choose_columns(
    types: Mapping[str, str],
    asked: Mapping[str, str | None],
    *,
    before: PromptPlan | None,
    say: Say,
) -> PromptColumns:
    """Which columns are settings, and which pass through; what is guessed or left out is said.

    Args:
        types: Of every column but the prompt.
        asked: `prompts.columns`.
        before: The plan that is grown, which keeps its columns.

    Raises:
        ConfigError: `asked` names a column that the list does not have.
    """
    read = name_source_columns({name: kind or "string" for name, kind in types.items()})
    settings = find_settings([column.input for column in read], asked)
    for line in settings.said:
        say(line)
    names = {column.input: column.name for column in read}
    raw = {setting: names[column] for setting, column in settings.columns.items()}
    stored = tuple(column for column in read if column.name not in raw.values())
    if before is not None:
        kept = {column.name: column for column in before.columns}
        for column in stored:
            if column.name not in kept:
                say(f"the column {column.input} is new in the list and is left out")
        read = tuple(kept.get(column.name, column) for column in read)
        stored = before.columns
    return PromptColumns(read=read, stored=stored, raw=raw)
