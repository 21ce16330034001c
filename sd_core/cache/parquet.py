"""Latent shards as Parquet, with page checksums, that Hugging Face `datasets` reads."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.samples import (
    BucketRows,
    CacheShardError,
    LatentSample,
    as_stored,
    attributes_json,
    check_shapes,
)
from sd_core.cache.spec import CacheSpec
from sd_core.plain_json import parse_json

_ROW_GROUP_ROWS = 64
LATENT_SIDES = ("latent_height", "latent_width")
_VALUE_TYPES = {"float16": pa.float16(), "float32": pa.float32()}


def latents_schema(spec: CacheSpec) -> pa.Schema:
    """Columns of a shard; arrays are flat fixed-size lists, their shapes are in the metadata.

    Latents of several sizes are bytes instead (little-endian, C order), their height and width in
    columns beside: a list of varying length takes 500 times as long to read at random.
    """
    value = _VALUE_TYPES[spec.dtype]
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
    ]
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.buckets:
        fields += [pa.field(name, pa.int32(), nullable=False) for name in LATENT_SIDES]
        fields.append(pa.field("latents", pa.binary(), nullable=False))
    else:
        shapes["latents"] = spec.latents_shapes[0]
        latents = pa.list_(value, math.prod(shapes["latents"]))
        fields.append(pa.field("latents", latents, nullable=False))
    fields.append(pa.field("input_ids", pa.list_(pa.int32(), spec.embeds_shape[0]), nullable=False))
    if spec.prompt_embeds:
        embeds = pa.list_(value, math.prod(spec.embeds_shape))
        fields.append(pa.field("prompt_embeds", embeds, nullable=False))
        shapes["prompt_embeds"] = spec.embeds_shape
    fields.append(pa.field("attributes", pa.string(), nullable=False))
    return pa.schema(fields, metadata={"shapes": json.dumps(shapes)})


class ParquetShardWriter:
    """Writes row groups of 64 samples; the same samples give the same bytes."""

    def __init__(self, path: Path, spec: CacheSpec) -> None:
        self._spec = spec
        self._schema = latents_schema(spec)
        self._pending: list[LatentSample] = []
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression={"caption": "zstd", "attributes": "zstd", "key": "zstd"},
            use_dictionary=False,
            write_statistics=["key"],
            write_page_checksum=True,
        )
        self._rows = BucketRows(spec)
        self.num_written = 0

    @property
    def bucket_rows(self) -> tuple[int, ...] | None:
        """How many samples there are of each size; None where there is one size."""
        return self._rows.counts

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored."""
        stored = as_stored(sample, self._spec)
        if stored is None:
            return False
        self._rows.add(stored)
        self._pending.append(stored)
        self.num_written += 1
        if len(self._pending) == _ROW_GROUP_ROWS:
            self._flush()
        return True

    def _flush(self) -> None:
        samples, self._pending = self._pending, []
        if not samples:
            return
        columns: dict[str, Any] = {
            "key": [sample.key for sample in samples],
            "caption": [sample.caption for sample in samples],
            **_latent_columns([sample.raw_latents for sample in samples], self._spec),
            "input_ids": _to_lists([sample.input_ids for sample in samples]),
            "attributes": [attributes_json(sample).decode() for sample in samples],
        }
        if self._spec.prompt_embeds:
            columns["prompt_embeds"] = _to_lists(
                [sample.prompt_embeds for sample in samples if sample.prompt_embeds is not None]
            )
        arrays = [
            column
            if isinstance(column := columns[field.name], pa.Array)
            else pa.array(column, field.type)
            for field in self._schema
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._writer.close()


def iterate_parquet(stream: IO[bytes], spec: CacheSpec, *, name: str) -> Iterator[LatentSample]:
    """Read a file's samples in order, a row group at a time; raises `CacheShardError`."""
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)
        expected = latents_schema(spec)
        if not file.schema_arrow.equals(expected, check_metadata=False):
            raise CacheShardError(
                f"{name}: its columns are not those of the spec; found {file.schema_arrow}"
            )
        for batch in file.iter_batches(batch_size=_ROW_GROUP_ROWS, use_threads=False):
            yield from _to_samples(batch, spec)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CacheShardError(f"{name}: damaged Parquet: {error}") from error


def latents_of(spec: CacheSpec, content: bytes, height: int, width: int) -> npt.NDArray[Any]:
    """(C, height, width), of the bytes of a row; raises ValueError where they do not fit."""
    flat = np.frombuffer(content, np.dtype(spec.dtype).newbyteorder("<"))
    return flat.reshape(spec.latents_shapes[0][0], height, width).astype(spec.dtype)


def _to_samples(batch: pa.RecordBatch, spec: CacheSpec) -> Iterator[LatentSample]:
    latents: Any
    if spec.buckets:
        columns = [batch.column(name).to_pylist() for name in ("latents", *LATENT_SIDES)]
        latents = [latents_of(spec, *row) for row in zip(*columns, strict=True)]
    else:
        latents = _from_lists(batch.column("latents"), spec.latents_shapes[0])
    input_ids = _from_lists(batch.column("input_ids"), spec.embeds_shape[:1])
    embeds = (
        _from_lists(batch.column("prompt_embeds"), spec.embeds_shape)
        if spec.prompt_embeds
        else None
    )
    keys, captions = batch.column("key").to_pylist(), batch.column("caption").to_pylist()
    attributes = batch.column("attributes").to_pylist()
    for row in range(batch.num_rows):
        tree = parse_json(attributes[row])
        tree.pop("key", None)
        sample = LatentSample(
            key=keys[row],
            raw_latents=latents[row],
            input_ids=input_ids[row],
            prompt_embeds=None if embeds is None else embeds[row],
            caption=captions[row],
            attributes=tree,
        )
        check_shapes(sample, spec)
        yield sample


def _latent_columns(latents: list[npt.NDArray[Any]], spec: CacheSpec) -> dict[str, Any]:
    if not spec.buckets:
        return {"latents": _to_lists(latents)}
    kind = np.dtype(spec.dtype).newbyteorder("<")
    sides = {name: [array.shape[k] for array in latents] for k, name in enumerate(LATENT_SIDES, 1)}
    return {"latents": [array.astype(kind).tobytes() for array in latents], **sides}


def _to_lists(arrays: list[npt.NDArray[Any]]) -> pa.Array:
    flat = pa.array(np.concatenate([array.reshape(-1) for array in arrays]))
    return pa.FixedSizeListArray.from_arrays(flat, arrays[0].size)


def _from_lists(column: pa.Array, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    arrays: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return arrays.reshape(-1, *shape)
