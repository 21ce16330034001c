"""Lists of URLs in Arrow's file format (IPC, also called Feather)."""

from collections.abc import Iterator

import pyarrow as pa
from pyarrow import feather

from pipelines.sources.columns import TextColumns, as_text, recognise_columns, stored_type
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.source_format import Scan, SourceFormat, Wanted


class ArrowList(SourceFormat):
    """One row a URL; the columns beside URL and caption are carried as `source_<name>`."""

    suffixes = (".arrow", ".feather")

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        table = _read(file)
        columns = recognise_columns(
            table.column_names,
            url_column=config.url_column,
            caption_column=config.caption_column,
            where=file.uri,
        )
        taken = (columns.url, columns.caption)
        types = {f.name: stored_type(f.type) for f in table.schema if f.name not in taken}
        for start in range(0, table.num_rows, asked.rows_per_shard):
            raw = _rows(table.slice(start, asked.rows_per_shard), columns)
            yield ScannedRange(start_row=start, raw=raw, types=types, text_columns=columns)

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        return _rows(_read(file).slice(where.start_row, where.num_rows), wanted.columns)


def _read(file: SourceFile) -> pa.Table:
    with file.open() as stream:
        try:
            return feather.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file.uri}: cannot be read as an Arrow file: {error}") from error


def _rows(table: pa.Table, columns: TextColumns) -> RawRows:
    extra = {name: table[name].combine_chunks() for name in table.column_names}
    missing = pa.nulls(table.num_rows, pa.string())
    url, caption = (
        missing if name is None else as_text(extra.pop(name))
        for name in (columns.url, columns.caption)
    )
    return raw_rows(url=url, caption=caption, extra=extra)
