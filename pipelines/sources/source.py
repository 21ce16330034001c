"""One door to every kind of source: list its files, scan them for the plan, read a shard."""

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from pipelines.sources.columns import SourceColumn, TextColumns, infer_text_type
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.formats import FORMATS
from pipelines.sources.listing import list_files
from pipelines.sources.rows import READER, RawRows, ScannedRange, SourceRange, build_rows
from pipelines.sources.source_config import SourceConfig
from pipelines.sources.source_format import Scan, Wanted


@dataclass(frozen=True)
class Source:
    """The rows that a configuration names. Holds no open file, so that it pickles."""

    config: SourceConfig

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        """The source's files in plan order; raises `SourceError` where there are none."""
        return tuple(list_files(self.config))

    def check_listed(self) -> None:
        """Raise `SourceError` where there is no file, before anything costly begins."""
        self.files  # noqa: B018
        root = self.config.files_root
        if root is not None and not (os.path.isabs(root) and os.path.isdir(root)):
            raise SourceError(
                f"source.files_root {root}: no folder of this machine; give an absolute path"
            )

    def __getstate__(self) -> dict[str, SourceConfig]:
        return {"config": self.config}

    @cached_property
    def _by_name(self) -> dict[str, SourceFile]:
        return {file.name: file for file in self.files}

    @property
    def holds_images(self) -> bool:
        """Whether the images come with the source, so that nothing is fetched."""
        return FORMATS[self.files[0].format].holds_images

    def file(self, name: str) -> SourceFile:
        """The file of that name; raises `SourceError` where it is gone."""
        try:
            return self._by_name[name]
        except KeyError:
            raise SourceError(
                f"the plan reads {name!r}, but source.path {self.files[0].uri.removesuffix(name)} "
                "no longer has it: put it back, or plan a new run"
            ) from None

    def scan(
        self,
        file: SourceFile,
        *,
        rows_per_shard: int,
        reader: int = READER,
        known_rows: int = 0,
    ) -> Iterator[ScannedRange]:
        """A file's rows, a shard at a time, for the plan: URLs and captions are all it needs.

        Args:
            reader: As the plan has it that is to grow.
            known_rows: How many it has already; they may be left out.
        """
        asked = Scan(rows_per_shard=rows_per_shard, reader=reader, known_rows=known_rows)
        for scanned in FORMATS[file.format].scan(file, self.config, asked):
            if self.config.captions is not None and scanned.raw.captions is None:
                told = {"source.captions chooses nothing: captions are single texts": 1}
                scanned = replace(scanned, notes={**scanned.notes, **told})
            parts = self._partitions(file, scanned.types, scanned.text_columns)
            if not parts:
                yield scanned
                continue
            types = {
                name: "" if value is None else infer_text_type(pa.array([value], pa.string()))
                for name, value in parts.items()
            }
            yield replace(scanned, types={**scanned.types, **types})

    @staticmethod
    def _partitions(
        file: SourceFile, names: Container[str], columns: TextColumns
    ) -> dict[str, str | None]:
        """What the file's folders say, where the file itself has no such column."""
        taken = (columns.url, columns.caption)
        return {
            name: value
            for name, value in file.partitions.items()
            if name not in names and name not in taken
        }

    def read_rows(
        self,
        where: SourceRange,
        *,
        text_columns: TextColumns,
        columns: Sequence[SourceColumn],
    ) -> pa.Table:
        """The rows of one shard, without the plan's verdicts; see `build_rows` for the columns."""
        others = {column.input for column in columns}
        raw = self._read(where, text_columns, others)
        choice = self.config.captions
        return build_rows(raw, where=where, columns=columns, choice=choice)

    def read_raw(self, where: SourceRange, *, text_columns: TextColumns) -> RawRows:
        """The rows of one shard as they stand in the file: URLs, captions and verdicts."""
        return self._read(where, text_columns, set())

    def read_images(self, where: SourceRange) -> Iterator[tuple[int, bytes]]:
        """`(row, image bytes as stored)` of the rows whose image lies in the source.

        A row that has no reason and is not yielded is `member_missing`.
        """
        file = self.file(where.file)
        found = FORMATS[file.format].images(file, where.whole, self.config)
        return ((row, image) for row, image in found if row < where.num_rows)

    def _read(self, where: SourceRange, columns: TextColumns, others: set[str]) -> RawRows:
        file = self.file(where.file)
        wanted = Wanted(columns=columns, others=others)
        raw = FORMATS[file.format].read(file, where.whole, self.config, wanted)
        raw = raw if where.uncut_rows is None else raw.part(0, where.num_rows)
        parts = self._partitions(file, raw.extra, columns)
        constant = {
            name: pa.array([value] * len(raw.url), pa.string())
            for name, value in parts.items()
            if name in others
        }
        return replace(raw, extra={**raw.extra, **constant}) if constant else raw
