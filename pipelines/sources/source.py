"""One door to every kind of source: list its files, scan them for the plan, read a shard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from pipelines.keys import KeyHash, blake2b_64
from pipelines.sources.archives import (
    img2dataset_images,
    read_img2dataset,
    read_webdataset,
    scan_img2dataset,
    scan_webdataset,
    webdataset_images,
)
from pipelines.sources.columns import SourceColumn, TextColumns
from pipelines.sources.config import SourceConfig, SourceError
from pipelines.sources.files import SourceFile, list_files
from pipelines.sources.lists import read_list, scan_list
from pipelines.sources.parquet_list import read_parquet, scan_parquet
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, build_rows


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

    def __getstate__(self) -> dict[str, SourceConfig]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, SourceConfig]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _by_name(self) -> dict[str, SourceFile]:
        return {file.name: file for file in self.files}

    @property
    def holds_images(self) -> bool:
        """Whether the images come with the source, so that nothing is fetched."""
        return self.files[0].format in ("img2dataset", "webdataset")

    def file(self, name: str) -> SourceFile:
        """The file of that name; raises `SourceError` where it is gone."""
        try:
            return self._by_name[name]
        except KeyError:
            raise SourceError(
                f"the plan reads {name!r}, but source.path {self.files[0].uri.removesuffix(name)} "
                "no longer has it: put it back, or plan a new run"
            ) from None

    def scan(self, file: SourceFile, *, rows_per_shard: int) -> Iterator[ScannedRange]:
        """A file's rows, a shard at a time, for the plan: URLs and captions are all it needs."""
        if file.format == "parquet":
            return scan_parquet(file, self.config, rows_per_shard)
        if file.format == "img2dataset":
            return scan_img2dataset(file, self.config, rows_per_shard)
        if file.format == "webdataset":
            return scan_webdataset(file, self.config, rows_per_shard)
        return scan_list(file, self.config, rows_per_shard)

    def read_rows(
        self,
        where: SourceRange,
        *,
        text_columns: TextColumns,
        columns: Sequence[SourceColumn],
        key_hash: KeyHash = blake2b_64,
    ) -> pa.Table:
        """The rows of one shard, without the plan's verdicts; see `build_rows` for the columns."""
        raw = self._read(self.file(where.file), where, text_columns)
        return build_rows(raw, where=where, columns=columns, key_hash=key_hash)

    def read_raw(self, where: SourceRange, *, text_columns: TextColumns) -> RawRows:
        """The rows of one shard as they stand in the file."""
        return self._read(self.file(where.file), where, text_columns)

    def read_images(self, where: SourceRange) -> Iterator[tuple[int, bytes]]:
        """`(row, image bytes as stored)` of the rows whose image lies in the source.

        A row that has no reason and is not yielded is `member_missing`.
        """
        file = self.file(where.file)
        if file.format == "webdataset":
            return webdataset_images(file, where)
        if file.format == "img2dataset":
            return img2dataset_images(file, where, self.config)
        raise SourceError(f"{file.uri}: a {file.format} list holds no images")

    def _read(self, file: SourceFile, where: SourceRange, columns: TextColumns) -> RawRows:
        if file.format == "parquet":
            return read_parquet(file, where, columns)
        if file.format == "img2dataset":
            return read_img2dataset(file, where, self.config)
        if file.format == "webdataset":
            return read_webdataset(file, where, self.config)
        return read_list(file, where, columns)
