"""Sources that hold the images themselves: WebDataset tars and folders that img2dataset wrote."""

import itertools
import json
import posixpath
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sources.columns import (
    TextColumns,
    array_from_values,
    clean_text,
    stored_type,
)
from pipelines.sources.config import SourceConfig, SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.parquet_list import read_parquet, scan_parquet
from pipelines.sources.rows import RawRows, ScannedRange, SourceRange, raw_rows
from pipelines.sources.tar_stream import iterate_members

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_IMAGE_BYTES = 64 << 20
MAX_TEXT_BYTES = 8 << 20


@dataclass(kw_only=True)
class _Sample:
    """The members of a tar that share a name up to its first dot."""

    name: str
    start_byte: int
    end_byte: int = 0
    image: bytes | None = None
    has_image: bool = False
    oversized: bool = False
    caption: str | None = None
    fields: dict[str, object] = field(default_factory=dict)


def scan_webdataset(
    file: SourceFile, config: SourceConfig, rows_per_shard: int
) -> Iterator[ScannedRange]:
    """The tar's samples in ranges of `rows_per_shard`; images are passed over."""
    columns = _sample_columns(config)
    samples = _samples(file, start_byte=0, with_images=False)
    start_row = 0
    while batch := list(itertools.islice(samples, rows_per_shard)):
        raw = _to_raw(batch, columns)
        yield ScannedRange(
            start_row=start_row,
            raw=raw,
            types={
                name: "" if array.null_count == len(array) else stored_type(array.type)
                for name, array in raw.extra.items()
            },
            text_columns=columns,
            start_byte=batch[0].start_byte,
            end_byte=batch[-1].end_byte,
        )
        start_row += len(batch)


def read_webdataset(file: SourceFile, where: SourceRange, config: SourceConfig) -> RawRows:
    """The rows of one range."""
    samples = _samples(file, start_byte=where.start_byte or 0, with_images=False)
    batch = list(itertools.islice(samples, where.num_rows))
    if len(batch) != where.num_rows:
        raise SourceError(
            f"{file.uri}: {len(batch)} samples from byte {where.start_byte} on, where the plan "
            f"found {where.num_rows}; the file has changed: plan a new run"
        )
    return _to_raw(batch, _sample_columns(config))


def webdataset_images(file: SourceFile, where: SourceRange) -> Iterator[tuple[int, bytes]]:
    """Each row of the range that has an image, with the image's bytes as stored."""
    samples = _samples(file, start_byte=where.start_byte or 0, with_images=True)
    for row, sample in enumerate(itertools.islice(samples, where.num_rows)):
        if sample.image:
            yield row, sample.image


def img2dataset_columns(config: SourceConfig) -> SourceConfig:
    """The configuration with img2dataset's own column names where none are set."""
    return config.model_copy(
        update={
            "url_column": config.url_column or "url",
            "caption_column": "caption" if config.caption_column is None else config.caption_column,
        }
    )


def scan_img2dataset(
    file: SourceFile, config: SourceConfig, rows_per_shard: int
) -> Iterator[ScannedRange]:
    """The rows of one of img2dataset's shards, from its Parquet file."""
    for scanned in scan_parquet(file, img2dataset_columns(config), rows_per_shard):
        where = SourceRange(
            shard_id=0,
            file=file.name,
            start_row=scanned.start_row,
            num_rows=len(scanned.raw.url),
        )
        # Read again with every column: whether a row can be used is in its `status`.
        yield replace(scanned, raw=read_img2dataset(file, where, config))


def read_img2dataset(file: SourceFile, where: SourceRange, config: SourceConfig) -> RawRows:
    """The rows of one range; those that img2dataset failed to get are `source_failed`."""
    asked = img2dataset_columns(config)
    columns = TextColumns(url=asked.url_column, caption=asked.caption_column or None)
    raw = read_parquet(file, where, columns)
    status = raw.extra.get("status")
    if status is None or "key" not in raw.extra:
        raise SourceError(
            f"{file.uri}: no 'status' and 'key' columns, so img2dataset did not write it; "
            "set source.format to parquet"
        )
    failed = pc.fill_null(pc.not_equal(status, "success"), True)
    known = pc.is_in(status, value_set=pa.array(["failed_to_download", "failed_to_resize"]))
    said = pc.if_else(known, status, "an unknown status")
    return replace(
        raw,
        reason=pc.if_else(failed, "source_failed", raw.reason),
        error_message=pc.if_else(
            failed,
            pc.binary_join_element_wise("img2dataset:", said, " "),
            raw.error_message,
        ),
    )


def img2dataset_images(
    file: SourceFile, where: SourceRange, config: SourceConfig
) -> Iterator[tuple[int, bytes]]:
    """Each row of the range whose image is in the tar beside the list, in the tar's order."""
    raw = read_img2dataset(file, where, config)
    usable = pc.is_null(raw.reason).to_pylist()
    keys = raw.extra["key"].cast(pa.string()).to_pylist()
    rows = {key: row for row, key in enumerate(keys) if usable[row]}
    tar = _tar_beside(file)
    if not file.filesystem.exists(tar.path):
        return
    for sample in _samples(tar, start_byte=0, with_images=True):
        row = rows.pop(sample.name, None)
        if row is not None and sample.image:
            yield row, sample.image
        if not rows:
            return


def tar_beside(file: SourceFile) -> SourceFile:
    """The tar that belongs to one of img2dataset's Parquet files."""
    return _tar_beside(file)


def _tar_beside(file: SourceFile) -> SourceFile:
    def swap(path: str) -> str:
        return f"{path.removesuffix('.parquet')}.tar"

    return replace(
        file,
        name=swap(file.name),
        path=swap(file.path),
        uri=swap(file.uri),
        format="webdataset",
        compression=None,
    )


def _samples(file: SourceFile, *, start_byte: int, with_images: bool) -> Iterator[_Sample]:
    def max_bytes(name: str) -> int:
        extension = _extension(name)
        if extension in IMAGE_EXTENSIONS:
            return MAX_IMAGE_BYTES if with_images else 0
        return MAX_TEXT_BYTES if extension in ("txt", "json") and not with_images else 0

    sample: _Sample | None = None
    with ExitStack() as stack:
        stream = stack.enter_context(file.open_at(start_byte))
        for member in iterate_members(stream, uri=file.uri, at=start_byte, max_bytes=max_bytes):
            if "." not in posixpath.basename(member.name)[1:] or _is_hidden(member.name):
                continue  # as webdataset does: a README or a `._x.jpg` is no part of a sample
            name = _sample_name(member.name)
            if sample is None or sample.name != name:
                if sample is not None:
                    yield sample
                sample = _Sample(name=name, start_byte=member.start_byte)
            sample.end_byte = member.end_byte
            _add(sample, _extension(member.name), member.content, member.num_bytes)
    if sample is not None:
        yield sample


def _add(sample: _Sample, extension: str, content: bytes | None, num_bytes: int) -> None:
    if extension in IMAGE_EXTENSIONS:
        if not sample.has_image:
            sample.has_image = num_bytes > 0
            sample.oversized = num_bytes > MAX_IMAGE_BYTES
            sample.image = content
    elif content is None:
        return
    elif extension == "txt":
        sample.caption = content.decode("utf-8", "replace")
    elif extension == "json":
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(parsed, dict):
            sample.fields = parsed


def _to_raw(samples: list[_Sample], columns: TextColumns) -> RawRows:
    rows = [dict(sample.fields) for sample in samples]
    urls = [_as_text(row.pop(columns.url or "", None)) for row in rows]
    told = [_as_text(row.pop(columns.caption or "", None)) for row in rows]
    captions = [
        sample.caption if sample.caption is not None else caption
        for sample, caption in zip(samples, told, strict=True)
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


def _fault(sample: _Sample) -> str | None:
    if not sample.has_image:
        return f"no {', '.join(IMAGE_EXTENSIONS)} member, or an empty one"
    return f"image member above {MAX_IMAGE_BYTES} bytes" if sample.oversized else None


def _sample_columns(config: SourceConfig) -> TextColumns:
    """Names within a sample's `.json`."""
    return TextColumns(url=config.url_column or "url", caption=config.caption_column or "caption")


def _as_text(value: object) -> str | None:
    return clean_text(value) if isinstance(value, str) else None


def _sample_name(name: str) -> str:
    folder, base = posixpath.split(name)
    return clean_text(posixpath.join(folder, base.split(".", 1)[0])) or ""


def _is_hidden(name: str) -> bool:
    return posixpath.basename(name).startswith(".")


def _extension(name: str) -> str:
    return posixpath.basename(name).partition(".")[2].lower()
