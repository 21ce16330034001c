"""Tables that hold their pictures: Parquet, and Hugging Face data sets on disk (Arrow).

A picture is a file's bytes, or `{bytes, path}` as `datasets` writes it; its row's name is its
number, where it has no URL.
"""

import itertools
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.arrow_text import has_pictures, holds_bytes
from pipelines.sources.cells import ShardCut
from pipelines.sources.columns import CAPTION_NAMES, URL_NAMES, TextColumns, unique_names
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.fitting import advice_without_pictures as advice
from pipelines.sources.parquet_list import (
    bytes_of,
    lost_in,
    other_types,
    picture_columns,
    read_bytes_column,
    read_parquet_rows,
    scan_parquet,
    table_rows,
)
from pipelines.sources.parquet_reading import open_parquet
from pipelines.sources.row_pieces import RowPiece, decoded, first_rows, in_blocks
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.tar_samples import MAX_IMAGE_BYTES

_ROWS_AT_ONCE = 16


class ParquetImages(SourceFormat):
    """Parquet with the pictures in a column; of URLs beside them nothing is fetched."""

    holds_images = True

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        name = self._column(file, config)
        with open_parquet(file) as parquet:
            texts = _texts(unique_names(parquet.schema_arrow.names), config, file)
            num_rows, others = parquet.metadata.num_rows, parquet.schema_arrow.names
        if others == [name]:
            yield from _bare_ranges(num_rows, asked.rows_per_shard)
            return
        for scanned in scan_parquet(
            file, config, asked.rows_per_shard, without={name}, texts=texts
        ):
            yield replace(scanned, raw=_named(scanned.raw, scanned.start_row))

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        if not wanted.others and wanted.columns == TextColumns(url=None, caption=None):
            return _bare_rows(where.start_row, where.num_rows)
        raw = read_parquet_rows(file, where, wanted.columns, others=wanted.others)
        return _named(raw, where.start_row)

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        return _usable(read_bytes_column(file, where, self._column(file, config)))

    @staticmethod
    def _column(file: SourceFile, config: ReadingConfig) -> str:
        with open_parquet(file) as parquet:
            names = unique_names(parquet.schema_arrow.names)
        return _choose(config, names, picture_columns(file, names), file)


class HuggingFaceData(SourceFormat):
    """A data set as `datasets` saves it to disk, or its splits in folders: files of Arrow."""

    holds_images = True

    def claims(self, names: Sequence[str]) -> bool:
        bases = {posixpath.basename(name) for name in names}
        return {"dataset_info.json", "state.json"} <= bases and bool(self.choose(names))

    def choose(self, names: Iterable[str]) -> list[str]:
        return [
            name
            for name in names
            if name.endswith(".arrow") and not posixpath.basename(name).startswith("cache-")
        ]

    def texts(self, names: Sequence[str], config: ReadingConfig, file: SourceFile) -> TextColumns:
        """The URL and caption columns, where there are any."""
        return _texts(names, config, file)

    def pictures(self, file: SourceFile, config: ReadingConfig) -> list[str]:
        """The columns that are no texts."""
        return [_image_of(file, config)]

    def named(self, raw: RawRows, start_row: int) -> RawRows:
        """The rows, which need no URL."""
        return _named(raw, start_row)

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        with _opened(file) as reader:
            names = reader.schema.names
            texts, pictures = self.texts(names, config, file), self.pictures(file, config)
            types = other_types(reader.schema, texts, config, file)
        types = {name: kind for name, kind in types.items() if name not in pictures}
        if names == pictures:
            yield from _bare_ranges(_count(file), asked.rows_per_shard)
            return
        cut, start_row = ShardCut(asked.rows_per_shard), 0
        parts = _parts(
            file, [n for n in names if n not in pictures], max_bytes=config.max_cell_bytes
        )
        for piece in in_blocks(parts, asked.rows_per_shard):
            notes: Counter[str] = Counter()
            raw = table_rows(piece.table, texts, piece.limit, notes=notes)
            yield ScannedRange(
                start_row=start_row,
                raw=self.named(raw, start_row),
                types=types,
                text_columns=texts,
                notes=notes + lost_in(piece, texts),
                begins_shard=cut.begins(start_row, piece.num_bytes),
                too_large=piece.limit.places,
            )
            start_row += piece.table.num_rows

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        texts = wanted.columns
        with _opened(file) as reader:
            told = {texts.url, texts.caption, *wanted.others}
            only = [name for name in reader.schema.names if name in told]
        if not only:
            return _bare_rows(where.start_row, where.num_rows)
        parts = _parts(file, only, start_row=where.start_row, max_bytes=where.max_cell_bytes)
        piece = first_rows(parts, where.num_rows)
        return self.named(table_rows(piece.table, texts, piece.limit), where.start_row)

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        name = _image_of(file, config)

        def contents() -> Iterator[bytes | None]:
            for batch in _slices(file, where.start_row, [name]):
                for at in range(0, batch.num_rows, _ROWS_AT_ONCE):
                    yield from bytes_of(batch.column(0).slice(at, _ROWS_AT_ONCE))

        return _usable(itertools.islice(contents(), where.num_rows))


def _texts(names: Sequence[str], config: ReadingConfig, file: SourceFile) -> TextColumns:
    """The URL and caption columns, of which a table of pictures needs neither."""
    found = []
    for option, asked, known in (
        ("url_column", config.url_column, URL_NAMES),
        ("caption_column", config.caption_column, CAPTION_NAMES),
    ):
        if asked and asked not in names:
            raise SourceError(
                f"{file.uri}: source.{option} is {asked!r}, but the columns are: {', '.join(names)}"
            )
        matches = [name for name in names if name.strip().lower() in known]
        if asked is None and len(matches) > 1:
            raise SourceError(
                f"{file.uri}: several columns could be meant ({', '.join(matches)}); set "
                f"source.{option}"
            )
        found.append(asked or (matches[0] if matches and asked is None else None))
    return TextColumns(url=found[0], caption=found[1])


def _choose(
    config: ReadingConfig, names: Sequence[str], pictures: Sequence[str], file: SourceFile
) -> str:
    asked = config.image_column
    if asked is not None and asked in names:
        return asked
    if asked is None and len(pictures) == 1:
        return pictures[0]
    problem = f"it is {asked!r}" if asked is not None else f"{len(pictures)} columns hold pictures"
    told = f"{problem}; the columns are: {', '.join(names)}"
    told += f" (with pictures: {', '.join(pictures)})" if pictures else advice(names, file.format)
    raise SourceError(f"{file.uri}: source.image_column: {told}")


def _named(raw: RawRows, start_row: int) -> RawRows:
    """Rows whose name is their number: one without a URL is no row without a picture."""
    missing = pc.fill_null(pc.equal(raw.reason, "url_missing"), False)
    return replace(
        raw,
        reason=pc.if_else(missing, pa.scalar(None, pa.string()), raw.reason),
        names=[str(row) for row in range(start_row, start_row + len(raw.url))],
    )


def _bare_rows(start_row: int, num_rows: int) -> RawRows:
    """Rows of which nothing but their picture is known."""
    none = pa.nulls(num_rows, pa.string())
    return _named(raw_rows(url=none, caption=none), start_row)


def _bare_ranges(num_rows: int, rows_per_shard: int) -> Iterator[ScannedRange]:
    for start_row in range(0, num_rows, rows_per_shard):
        yield ScannedRange(
            start_row=start_row,
            raw=_bare_rows(start_row, min(rows_per_shard, num_rows - start_row)),
            types={},
            text_columns=TextColumns(url=None, caption=None),
        )


def _usable(contents: Iterator[bytes | None]) -> Iterator[tuple[int, bytes]]:
    for row, content in enumerate(contents):
        if content and len(content) <= MAX_IMAGE_BYTES:
            yield row, content


@contextmanager
def _opened(file: SourceFile) -> Iterator[pa.RecordBatchReader]:
    with file.open() as stream:
        try:
            with pa.ipc.open_stream(stream) as reader:
                yield reader
        except (pa.ArrowException, OSError) as error:
            raise SourceError(
                f"{file.uri}: cannot be read as Arrow: {error}; the file is damaged or is none"
            ) from error


def _count(file: SourceFile) -> int:
    with _opened(file) as reader:
        return sum(batch.num_rows for batch in reader)


def _image_of(file: SourceFile, config: ReadingConfig) -> str:
    pictures = arrow_pictures(file)
    if not pictures:
        _refuse_paths(file)
    with _opened(file) as reader:
        return _choose(config, reader.schema.names, pictures, file)


def arrow_pictures(file: SourceFile) -> list[str]:
    """The columns whose first values are pictures."""
    return [
        field.name
        for field, column in _first_values(file)
        if holds_bytes(field.type) and has_pictures(column)
    ]


def _refuse_paths(file: SourceFile) -> None:
    """Raise `SourceError` where pictures are `{bytes, path}` of which there is but the path."""
    for field, column in _first_values(file):
        if pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0:
            path = column.flatten()[field.type.get_field_index("path")][0].as_py()
            raise SourceError(
                f"{file.uri}: the pictures of {field.name!r} lie as files ({path}); give the "
                "folder that holds them"
            )


def _first_values(file: SourceFile) -> list[tuple[pa.Field, pa.Array]]:
    """Each column with its first values; none of a file without rows."""
    with _opened(file) as reader:
        first = next((batch for batch in reader if batch.num_rows), None)
        return [] if first is None else [*zip(reader.schema, first[:64].columns, strict=True)]


def _slices(file: SourceFile, start_row: int, only: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows from one on, batch by batch as they are stored."""
    with _opened(file) as reader:
        for batch in reader:
            passed = min(start_row, batch.num_rows)
            start_row -= passed
            if passed < batch.num_rows:
                yield batch.slice(passed).select(list(only))


def _parts(
    file: SourceFile, only: Sequence[str], *, start_row: int = 0, max_bytes: int | None
) -> Iterator[RowPiece]:
    """Columns of all rows from one on, without their cells that are too large."""
    for batch in _slices(file, start_row, only):
        yield from decoded(batch, max_bytes)
