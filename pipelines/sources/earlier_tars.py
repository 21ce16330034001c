"""Tars of plans that earlier versions made: members of one sample lie side by side.

Such a run is resumed and grown by the rows that it was planned with; a new plan groups members
over the whole tar (`pipelines.sources.webdataset`).
"""

import itertools
from collections.abc import Iterator

from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import types_of
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange
from pipelines.sources.tar_rows import rows_of, sample_columns
from pipelines.sources.tar_samples import Part, PlannedSample, tar_parts

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
