"""WebDataset tars: the images come with the source, one sample a row.

A shard whose samples lie together is a range of bytes; else its rows are told by their numbers,
and the tar is read from its start.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipelines.sources.cells import ShardCut, slices
from pipelines.sources.config import ReadingConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.list_rows import types_of
from pipelines.sources.rows import EARLIER_READER, RawRows, ScannedRange, SourceRange
from pipelines.sources.source_format import Scan, SourceFormat, Wanted
from pipelines.sources.tar_rows import (
    earlier_tar_images,
    limited_rows,
    read_earlier_tar,
    sample_columns,
    scan_earlier_tar,
)
from pipelines.sources.tar_samples import Part, PlannedSample, grouped, kind_of, tar_parts

_SHOWN = 3


class WebDataset(SourceFormat):
    """Tars of samples, their images in them; plans of earlier versions read them their own way."""

    suffixes = (".tar", ".tgz")
    holds_images = True

    def scan(self, file: SourceFile, config: ReadingConfig, asked: Scan) -> Iterator[ScannedRange]:
        """Images are passed over.

        Raises:
            SourceError: two members have one name, or two images are of one sample and it is not
                told how members are grouped.
        """
        if asked.reader == EARLIER_READER:
            yield from scan_earlier_tar(file, config, asked.rows_per_shard)
            return
        notes: Counter[str] = Counter()
        samples = list(grouped(_counted(tar_parts(file, config.tar_grouping), notes)).values())
        _refuse_twins(samples, file)
        _refuse_merged(samples, file, config)
        _refuse_late_members(samples, asked.known_rows, file)
        columns, limit = sample_columns(config), config.max_cell_bytes
        before = max((sample.end_byte for sample in samples[: asked.known_rows]), default=0)
        for pieces in _shards(samples, asked.known_rows, asked.rows_per_shard):
            shard = _range(samples, pieces[0].start, pieces[-1].stop, before=before, file=file)
            for piece in pieces:
                where = _range(samples, piece.start, piece.stop, before=before, file=file)
                before = max(before, where.end_byte or 0)
                batch = _read(file, replace(where, max_cell_bytes=limit), config, texts=True)
                raw, too_large = limited_rows(batch, config, file, limit)
                yield ScannedRange(
                    start_row=piece.start,
                    raw=raw,
                    types=types_of(raw, file),
                    text_columns=columns,
                    start_byte=shard.start_byte,
                    end_byte=shard.end_byte,
                    notes=notes + _unused(batch, file) + _garbled(batch) + too_large.notes,
                    begins_shard=piece.start == pieces[0].start,
                    too_large=too_large.rows,
                )
                notes = Counter()

    def read(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig, wanted: Wanted
    ) -> RawRows:
        if where.reader == EARLIER_READER:
            return read_earlier_tar(file, where, config)
        samples = _read(file, where, config, texts=True)
        return limited_rows(samples, config, file, where.max_cell_bytes)[0]

    def images(
        self, file: SourceFile, where: SourceRange, config: ReadingConfig
    ) -> Iterator[tuple[int, bytes]]:
        if where.reader == EARLIER_READER:
            yield from earlier_tar_images(file, where)
            return
        chosen: set[int] | None = None  # a sample has one image, unless the user says how to choose
        if config.tar_grouping is not None:
            samples = _read(file, where, config)
            chosen = {image.start_byte for sample in samples if (image := sample.image) is not None}
        for row, _, part in _parts_of(file, where, config, images=True):
            if part.is_image and part.content and (chosen is None or part.start_byte in chosen):
                yield row, part.content


def _shards(
    samples: list[PlannedSample], known_rows: int, rows_per_shard: int
) -> Iterator[list[range]]:
    """The rows of each shard, in pieces whose texts are few enough to be held."""
    sizes = np.array([sample.text_bytes for sample in samples[known_rows:]], np.int64)
    cut, shard = ShardCut(rows_per_shard), list[range]()
    for block in range(0, len(sizes), rows_per_shard):
        for start, stop in slices(sizes[block : block + rows_per_shard]):
            num_bytes = int(sizes[block + start : block + stop].sum())
            if cut.begins(block + start, num_bytes) and shard:
                yield shard
                shard = []
            shard.append(range(known_rows + block + start, known_rows + block + stop))
    if shard:
        yield shard


def _range(
    samples: list[PlannedSample], start_row: int, end_row: int, *, before: int, file: SourceFile
) -> SourceRange:
    """Where samples lie; without a first byte where others lie between them.

    Args:
        before: Where the samples of earlier rows end.
    """
    batch = samples[start_row:end_row]
    end_byte = max(sample.end_byte for sample in batch)
    behind = samples[end_row : end_row + 1]
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
        max_caption_bytes=where.max_cell_bytes,
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
