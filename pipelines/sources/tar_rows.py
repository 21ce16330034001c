"""Samples of a tar as rows."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipelines.rows.image_formats import IMAGE_EXTENSIONS
from pipelines.sources import tar_samples
from pipelines.sources.caption_lists import listed_captions
from pipelines.sources.cells import lost_cells
from pipelines.sources.columns import TextColumns, array_from_values, clean_text
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.csv_records import MOST_LONGER, Record
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import refuse_columns, too_large_messages, types_of
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.tar_samples import Part, PlannedSample, tar_parts


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


_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json")


def scan_earlier_tar(
    file: SourceFile, config: ReadingConfig, rows_per_shard: int
) -> Iterator[ScannedRange]:
    """The tar's samples in ranges of `rows_per_shard`."""
    samples = _samples(file, 0)
    start_row = 0
    while batch := list(itertools.islice(samples, rows_per_shard)):
        raw = rows_of(batch, config)
        yield ScannedRange(
            start_row=start_row,
            raw=raw,
            types=types_of(raw, file),
            text_columns=sample_columns(config),
            start_byte=batch[0].start_byte,
            end_byte=batch[-1].end_byte,
        )
        start_row += len(batch)


def read_earlier_tar(file: SourceFile, where: SourceRange, config: ReadingConfig) -> RawRows:
    """The rows of one range."""
    batch = list(itertools.islice(_samples(file, where.start_byte or 0), where.num_rows))
    if len(batch) != where.num_rows:
        raise SourceError(
            f"{file.uri}: {len(batch)} samples from byte {where.start_byte} on, where the plan "
            f"found {where.num_rows}; the file has changed: plan a new run"
        )
    return rows_of(batch, config)


def earlier_tar_images(file: SourceFile, where: SourceRange) -> Iterator[tuple[int, bytes]]:
    """Each row of the range that has an image, with the image's bytes as stored."""
    samples = _samples(file, where.start_byte or 0, images=True)
    for row, sample in enumerate(itertools.islice(samples, where.num_rows)):
        image = sample.image
        if image is not None and image.content:
            yield row, image.content


def _samples(file: SourceFile, start_byte: int, *, images: bool = False) -> Iterator[PlannedSample]:
    sample: PlannedSample | None = None
    for name, part in tar_parts(file, None, start_byte=start_byte, texts=not images, images=images):
        if not name:
            continue
        if sample is None or sample.name != name:
            if sample is not None:
                yield sample
            sample = PlannedSample(name=name, start_byte=part.start_byte, end_byte=part.end_byte)
        sample.end_byte = part.end_byte
        _add(sample, part)
    if sample is not None:
        yield sample


def _add(sample: PlannedSample, part: Part) -> None:
    """A part counts where all after the first dot is a known extension; the first image alone."""
    if part.middle:
        return
    if part.extension in _IMAGES and not sample.images:
        sample.parts.append(part)
    if part.extension in _TEXTS:
        sample.parts = [one for one in sample.parts if one.extension != part.extension] + [part]
