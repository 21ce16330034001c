"""Random access to the rows of a Parquet shard: a row's values are read where they lie.

A file that another program wrote, compressed or with dictionaries, is decoded instead, a row group
at a time, to a file without a name.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.binary_columns import BinaryColumns
from sd_core.cache.parquet import LATENT_SIDES, latents_of, latents_schema
from sd_core.cache.parquet_pages import PageError, ValuePlaces, find_values
from sd_core.cache.samples import CacheShardError, LatentSample, check_shapes
from sd_core.cache.spec import CacheSpec
from sd_core.plain_json import parse_json

_SMALL_COLUMNS = ("key", "caption", "input_ids", "attributes")
_Spans = list[tuple[int, int]]


class ParquetShardReader:
    """An open Parquet shard.

    Args:
        file: A real file, which the reader closes.
        spec: The cache's.
        name: The shard's path, for errors.
        scratch: The folder of the nameless file that decoded row groups go to, if any.

    Raises:
        CacheShardError: it is damaged, or its columns are not the spec's.
    """

    def __init__(
        self, file: io.FileIO, spec: CacheSpec, *, name: str, scratch: Path | None
    ) -> None:
        self._file, self._spec, self._name = file, spec, name
        shapes: dict[str, tuple[int, ...]] = {}
        if not spec.buckets:
            shapes["latents"] = spec.latents_shapes[0]
        if spec.prompt_embeds:
            shapes["prompt_embeds"] = spec.embeds_shape
        try:
            file.seek(0)
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            expected = latents_schema(spec)
            if not self._parquet.schema_arrow.equals(expected, check_metadata=False):
                raise CacheShardError(
                    f"{name}: its columns are not those of the spec; found "
                    f"{self._parquet.schema_arrow}"
                )
            sides = LATENT_SIDES if spec.buckets else ()
            small = self._parquet.read(columns=[*_SMALL_COLUMNS, *sides], use_threads=False)
            self._columns = {name: small[name].combine_chunks() for name in small.column_names}
            self._input_ids = _from_lists(self._columns["input_ids"], spec.embeds_shape[:1])
            self._keys = self._columns["key"].to_pylist()
            self._values = _Values(file, self._parquet, shapes, spec.dtype, scratch)
            self._bytes = BinaryColumns(file, self._parquet, ["latents"] if spec.buckets else [])
        except (pa.ArrowException, OSError, ValueError, LookupError, PageError) as error:
            raise CacheShardError(f"{name}: damaged Parquet: {error}") from error
        self.num_rows = small.num_rows

    @property
    def keys(self) -> list[str]:
        """Every row's key, in order."""
        keys: list[str] = self._keys
        return keys

    def read(self, row: int) -> LatentSample:
        key = self._keys[row]
        try:
            arrays = self._values.read(row)
            attributes = parse_json(self._columns["attributes"][row].as_py())
            attributes.pop("key", None)
            sample = LatentSample(
                key=key,
                raw_latents=self._latents(row) if self._spec.buckets else arrays["latents"],
                input_ids=self._input_ids[row].copy(),
                prompt_embeds=arrays.get("prompt_embeds"),
                caption=self._columns["caption"][row].as_py(),
                attributes=attributes,
            )
            check_shapes(sample, self._spec)
        except (pa.ArrowException, OSError, PageError) as error:
            raise CacheShardError(f"{self._name}: {key}: damaged Parquet: {error}") from error
        except (ValueError, TypeError, LookupError, AttributeError, CacheShardError) as error:
            raise CacheShardError(f"{self._name}: {key}: {error}") from error
        return sample

    def _latents(self, row: int) -> npt.NDArray[Any]:
        sides = [self._columns[name][row].as_py() for name in LATENT_SIDES]
        return latents_of(self._spec, self._bytes.read("latents", row), *sides)

    def close(self) -> None:
        """Close the file, and let go of what was decoded."""
        self._values.close()
        self._parquet.close()
        self._file.close()


class _Values:
    """The large columns: where each row's values lie, in the file or decoded beside it."""

    def __init__(
        self,
        file: io.FileIO,
        parquet: pq.ParquetFile,
        shapes: dict[str, tuple[int, ...]],
        dtype: str,
        scratch: Path | None,
    ) -> None:
        self._file, self._parquet, self._shapes = file, parquet, shapes
        self._dtype, self._scratch = np.dtype(dtype), scratch
        self._counts = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        metadata = parquet.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._ends = np.cumsum(rows, dtype=np.int64)
        self._places: dict[int, dict[str, ValuePlaces] | io.FileIO] = {}
        self._decoded: io.FileIO | None = None
        names = [metadata.schema.column(k).path for k in range(metadata.num_columns)]
        self._column_numbers = {
            name: [path.partition(".")[0] for path in names].index(name) for name in shapes
        }

    def read(self, row: int) -> dict[str, npt.NDArray[Any]]:
        group = int(np.searchsorted(self._ends, row, side="right"))
        if group not in self._places:
            self._places[group] = self._find(group)
        file, spans = self._spans(group, row)
        content = np.empty(sum(self._counts.values()), self._dtype)
        room = content.data.cast("B")
        for offset, size in spans:
            file.seek(offset)
            if file.readinto(room[:size]) != size:
                raise CacheShardError("its data ends early")
            room = room[size:]
        arrays, start = {}, 0
        for name, shape in self._shapes.items():
            arrays[name] = content[start : start + self._counts[name]].reshape(shape)
            start += self._counts[name]
        return arrays

    def close(self) -> None:
        if self._decoded is not None:
            self._decoded.close()

    def _spans(self, group: int, row: int) -> tuple[io.FileIO, _Spans]:
        places = self._places[group]
        if isinstance(places, io.FileIO):
            size = sum(self._counts.values()) * self._dtype.itemsize
            return places, [(row * size, size)]
        row -= int(self._ends[group - 1]) if group else 0
        spans: _Spans = []
        for name, count in self._counts.items():
            spans += places[name].spans(row * count, count)
        return self._file, spans

    def _find(self, group: int) -> dict[str, ValuePlaces] | io.FileIO:
        """Where the group's values are in the shard, or the file they were decoded to."""
        metadata = self._parquet.metadata.row_group(group)
        places: dict[str, ValuePlaces] = {}
        for name, number in self._column_numbers.items():
            column = metadata.column(number)
            levels = self._parquet.schema.column(number)
            # Not `column.compression`: at a codec that it does not know, pyarrow ends the process.
            is_plain = (
                column.total_compressed_size == column.total_uncompressed_size
                and not column.has_dictionary_page
                and column.num_values == metadata.num_rows * self._counts[name]
                and levels.max_repetition_level == 1
                and levels.max_definition_level > 0
            )
            if not is_plain:
                return self._decode(group)
            self._file.seek(column.data_page_offset)
            found = find_values(
                self._file.read(column.total_compressed_size),
                offset=column.data_page_offset,
                num_values=column.num_values,
                width=self._dtype.itemsize,
            )
            if found is None:
                return self._decode(group)
            places[name] = found
        return places

    def _decode(self, group: int) -> io.FileIO:
        table = self._parquet.read_row_group(group, columns=list(self._shapes), use_threads=False)
        arrays = [
            _from_lists(table[name].combine_chunks(), (self._counts[name],))
            for name in self._shapes
        ]
        rows = np.concatenate(arrays, axis=1)
        if self._decoded is None:
            self._decoded = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115
        self._decoded.seek((int(self._ends[group]) - len(rows)) * rows.itemsize * rows.shape[1])
        content = rows.tobytes()
        if self._decoded.write(content) != len(content):
            raise OSError("the scratch folder is full")
        return self._decoded


def _from_lists(column: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    arrays: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return arrays.reshape(-1, *shape)
