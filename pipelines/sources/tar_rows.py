"""Samples of a tar as rows."""

from collections import Counter
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.rows.image_formats import IMAGE_EXTENSIONS
from pipelines.sources import tar_samples
from pipelines.sources.caption_lists import listed_captions
from pipelines.sources.cells import lost_cells
from pipelines.sources.columns import TextColumns, array_from_values, clean_text
from pipelines.sources.config import ReadingConfig
from pipelines.sources.csv_records import MOST_LONGER, Record
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import refuse_columns, too_large_messages
from pipelines.sources.rows import RawRows, raw_rows
from pipelines.sources.tar_samples import PlannedSample


@dataclass(frozen=True, kw_only=True)
class TooLarge:
    """What of samples is larger than a cell may be."""

    rows: list[int]
    notes: Counter[str]


def limited_rows(
    samples: list[PlannedSample], config: ReadingConfig, file: SourceFile, max_bytes: int | None
) -> tuple[RawRows, TooLarge]:
    """Samples as rows without their cells that have more bytes, if there is a limit."""
    if max_bytes is None:
        return rows_of(samples, config), TooLarge(rows=[], notes=Counter())
    columns = sample_columns(config)
    notes: Counter[str] = Counter()
    records: list[Record] = []
    for sample in samples:
        record = Record(fields=sample.fields, end_byte=0)
        text, tree = sample.caption_part, sample.json_part
        if tree is not None and tree.num_bytes * MOST_LONGER > max_bytes:
            record = record.limited([], max_bytes)
        if text is not None and text.num_bytes > max_bytes:
            record = replace(record, too_large=(*record.too_large, columns.caption or ""))
        records.append(record)
        notes.update(set(record.too_large) - {columns.url, columns.caption})
    refuse_columns({name for sample in samples for name in sample.fields}, file)
    found = rows_of(samples, config, records)
    rows = [row for row, record in enumerate(records) if record.too_large]
    return found, TooLarge(rows=rows, notes=lost_cells(max_bytes, notes))


def rows_of(
    samples: list[PlannedSample], config: ReadingConfig, records: list[Record] | None = None
) -> RawRows:
    """Samples as rows; one without a usable image is `member_missing`.

    Args:
        records: Their fields without what is too large.
    """
    columns = sample_columns(config)
    rows = [dict(sample.fields) for sample in samples]
    if records:
        rows = [dict(one.fields) if isinstance(one.fields, dict) else {} for one in records]
    urls = [_as_text(row.pop(columns.url or "", None)) for row in rows]
    told = [row.pop(columns.caption or "", None) for row in rows]
    own = [sample.caption for sample in samples]
    captions = [
        caption if caption is not None else _as_text(other)
        for caption, other in zip(own, told, strict=True)
    ]
    listed = [None if text is not None else other for text, other in zip(own, told, strict=True)]
    lists = listed_captions(listed, config.captions)
    faults = [_fault(sample) for sample in samples]
    names = {name: None for row in rows for name in row}
    return raw_rows(
        url=pa.array(urls, pa.string()),
        caption=pa.array(captions, pa.string()),
        captions=lists,
        reason=["member_missing" if fault else None for fault in faults],
        error_message=faults,
        names=[sample.name for sample in samples],
        extra={
            clean_text(name) or "": array_from_values([row.get(name) for row in rows])
            for name in names
        }
        | ({} if lists is None else {columns.caption or "": lists}),
        too_large=too_large_messages(records, columns) if records else None,
    )


def _fault(sample: PlannedSample) -> str | None:
    image = sample.image
    if image is None or image.num_bytes == 0:
        extensions = [name for names in IMAGE_EXTENSIONS.values() for name in names]
        return f"no {', '.join(extensions)} member, or an empty one"
    limit = tar_samples.MAX_IMAGE_BYTES
    return f"image member above {limit} bytes" if image.num_bytes > limit else None


def sample_columns(config: ReadingConfig) -> TextColumns:
    """Names within a sample's `.json`."""
    return TextColumns(url=config.url_column or "url", caption=config.caption_column or "caption")


def _as_text(value: object) -> str | None:
    return clean_text(value) if isinstance(value, str) else None
