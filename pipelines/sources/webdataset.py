"""WebDataset tars: the images come with the source, one sample a row.

A shard whose samples lie together is a range of bytes; else its rows are told by their numbers,
and the tar is read from its start.
"""

import itertools
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipelines.rows.image_formats import IMAGE_EXTENSIONS
from pipelines.sources import tar_samples
from pipelines.sources.columns import TextColumns, array_from_values, clean_text
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import types_of
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.tar_samples import Part, PlannedSample, grouped, kind_of, tar_parts

_SHOWN = 3


def scan_webdataset(
    file: SourceFile, config: ReadingConfig, rows_per_shard: int, *, known_rows: int = 0
) -> Iterator[ScannedRange]:
    """The tar's samples in ranges of `rows_per_shard`; images are passed over.

    Args:
        known_rows: How many are planned already, before some were added at the tar's end.

    Raises:
        SourceError: two members have one name, or two images are of one sample and it is not
            told how members are grouped.
    """
    notes: Counter[str] = Counter()
    samples = list(grouped(_counted(tar_parts(file, config.tar_grouping), notes)).values())
    _refuse_twins(samples, file)
    _refuse_merged(samples, file, config)
    _refuse_late_members(samples, known_rows, file)
    columns = sample_columns(config)
    before = max((sample.end_byte for sample in samples[:known_rows]), default=0)
    for start_row in range(known_rows, len(samples), rows_per_shard):
        where = _range(samples, start_row, rows_per_shard, before=before, file=file)
        before = max(before, where.end_byte or 0)
        batch = _read(file, where, config, texts=True)
        raw = rows_of(batch, config)
        yield ScannedRange(
            start_row=start_row,
            raw=raw,
            types=types_of(raw, file),
            text_columns=columns,
            start_byte=where.start_byte,
            end_byte=where.end_byte,
            notes=notes + _unused(batch, file) + _garbled(batch),
        )
        notes = Counter()


def read_webdataset(file: SourceFile, where: SourceRange, config: ReadingConfig) -> RawRows:
    """The rows of one range."""
    return rows_of(_read(file, where, config, texts=True), config)


def webdataset_images(
    file: SourceFile, where: SourceRange, config: ReadingConfig
) -> Iterator[tuple[int, bytes]]:
    """Each row of the range that has an image, with the image's bytes as stored."""
    chosen: set[int] | None = None  # a sample has one image, unless the user says how to choose
    if config.tar_grouping is not None:
        samples = _read(file, where, config)
        chosen = {image.start_byte for sample in samples if (image := sample.image) is not None}
    for row, _, part in _parts_of(file, where, config, images=True):
        if part.is_image and part.content and (chosen is None or part.start_byte in chosen):
            yield row, part.content


def _range(
    samples: list[PlannedSample], start_row: int, num_rows: int, *, before: int, file: SourceFile
) -> SourceRange:
    """Where a shard's samples lie; without a first byte where others lie between them.

    Args:
        before: Where the samples of earlier rows end.
    """
    batch = samples[start_row : start_row + num_rows]
    end_byte = max(sample.end_byte for sample in batch)
    behind = samples[start_row + num_rows : start_row + num_rows + 1]
    is_apart = before <= batch[0].start_byte and all(s.start_byte >= end_byte for s in behind)
    return SourceRange(
        shard_id=0,
        file=file.name,
        start_row=start_row,
        num_rows=len(batch),
        start_byte=batch[0].start_byte if is_apart else None,
        end_byte=end_byte,
    )


def _parts_of(
    file: SourceFile,
    where: SourceRange,
    config: ReadingConfig,
    *,
    texts: bool = False,
    images: bool = False,
) -> Iterator[tuple[int, str, Part]]:
    """The members of a range's rows, each with its row (from 0) and its sample's name."""
    rows: dict[str, int] = {}
    first = where.start_row if where.start_byte is None else 0
    for name, part in tar_parts(
        file,
        config.tar_grouping,
        start_byte=where.start_byte or 0,
        end_byte=where.end_byte,
        texts=texts,
        images=images,
    ):
        row = rows.setdefault(name, len(rows)) - first if name else -1
        if 0 <= row < where.num_rows:
            yield row, name, part


def _read(
    file: SourceFile, where: SourceRange, config: ReadingConfig, *, texts: bool = False
) -> list[PlannedSample]:
    parts = _parts_of(file, where, config, texts=texts)
    samples = list(grouped((name, part) for _, name, part in parts).values())
    if len(samples) != where.num_rows:
        raise SourceError(
            f"{file.uri}: {len(samples)} samples up to byte {where.end_byte}, where the plan "
            f"found {where.num_rows}; the file has changed: plan a new run"
        )
    return samples


def _counted(parts: Iterator[tuple[str, Part]], notes: Counter[str]) -> Iterator[tuple[str, Part]]:
    for name, part in parts:
        kind = kind_of(name, part)
        if kind is not None:
            notes[f"members of tars that are no part of a row: {kind}"] += 1
        yield name, part


def _unused(batch: list[PlannedSample], file: SourceFile) -> Counter[str]:
    unused = list(itertools.chain.from_iterable(sample.unused for sample in batch))
    if not unused:
        return Counter()
    names = ", ".join(part.name for part in unused[:_SHOWN])
    return Counter(
        {f"{file.uri}: members beside those that their rows take: {names}, ...": len(unused)}
    )


def _garbled(batch: list[PlannedSample]) -> Counter[str]:
    notes: Counter[str] = Counter()
    for sample in batch:
        notes["captions of tars with bytes that are no UTF-8, replaced by U+FFFD"] += (
            sample.caption_is_garbled
        )
        notes["JSON members of tars that hold no object and are passed over"] += (
            sample.json_is_broken
        )
        text = sample.caption_part
        notes["captions of tars that are too large and are null"] += (
            text is not None and text.content is None
        )
    return +notes


def _refuse_twins(samples: list[PlannedSample], file: SourceFile) -> None:
    for sample in samples:
        names = Counter(part.name for part in sample.parts)
        twins = [name for name, count in names.items() if count > 1]
        if twins:
            raise SourceError(
                f"{file.uri}: the member {twins[0]} is there {names[twins[0]]} times, and which "
                "one is meant cannot be told; write the tar anew, or put the samples of several "
                "tars into folders of their own"
            )


def _refuse_merged(samples: list[PlannedSample], file: SourceFile, config: ReadingConfig) -> None:
    merged = [sample for sample in samples if len(sample.images) > 1]
    if not merged or config.tar_grouping is not None:
        return
    shown = "; ".join(
        f"{sample.name}: {', '.join(part.name for part in sample.images[:_SHOWN])}"
        for sample in merged[:_SHOWN]
    )
    raise SourceError(
        f"{file.uri}: {len(merged)} samples have several images when members are grouped by their "
        f"names up to the first dot ({shown}). Set source.tar_grouping to last_dot where each is a "
        "sample of its own, or to first_dot to take one image of each: the first without a "
        "further dot in its name, else the first"
    )


def _refuse_late_members(samples: list[PlannedSample], known_rows: int, file: SourceFile) -> None:
    if not 0 < known_rows < len(samples):
        return
    added = samples[known_rows].start_byte
    late = [sample.name for sample in samples[:known_rows] if sample.end_byte > added]
    if late:
        raise SourceError(
            f"{file.uri}: {len(late)} samples that are planned have further members now "
            f"({', '.join(late[:_SHOWN])}); a run grows by new samples: give another `output`"
        )


def rows_of(samples: list[PlannedSample], config: ReadingConfig) -> RawRows:
    """Samples as rows; one without a usable image is `member_missing`."""
    columns = sample_columns(config)
    rows = [dict(sample.fields) for sample in samples]
    urls = [_as_text(row.pop(columns.url or "", None)) for row in rows]
    told = [_as_text(row.pop(columns.caption or "", None)) for row in rows]
    own = [sample.caption for sample in samples]
    captions = [
        caption if caption is not None else other for caption, other in zip(own, told, strict=True)
    ]
    faults = [_fault(sample) for sample in samples]
    names = {name: None for row in rows for name in row}
    return raw_rows(
        url=pa.array(urls, pa.string()),
        caption=pa.array(captions, pa.string()),
        reason=["member_missing" if fault else None for fault in faults],
        error_message=faults,
        names=[sample.name for sample in samples],
        extra={
            clean_text(name) or "": array_from_values([row.get(name) for row in rows])
            for name in names
        },
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
