"""Random access to the rows of a Parquet shard, whose row groups are decoded when first asked."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.parquet import latents_schema
from sd_core.cache.samples import CacheShardError, LatentSample, check_shapes
from sd_core.cache.spec import CacheSpec

_SMALL_COLUMNS = ("key", "caption", "input_ids", "attributes")


class ParquetShardReader:
    """An open Parquet shard.

    Args:
        file: A real file, which the reader closes.
        spec: The cache's.
        name: The shard's path, for errors.
        scratch: The folder of the nameless file that decoded row groups go to.

    Raises:
        CacheShardError: it is damaged, or its columns are not the spec's.
    """

    def __init__(
        self, file: io.FileIO, spec: CacheSpec, *, name: str, scratch: Path | None
    ) -> None:
        self._file, self._spec, self._name, self._scratch = file, spec, name, scratch
        self._shapes: dict[str, tuple[int, ...]] = {"latents": spec.latents_shape}
        if spec.prompt_embeds:
            self._shapes["prompt_embeds"] = spec.embeds_shape
        try:
            file.seek(0)
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
            expected = latents_schema(spec)
            if not self._parquet.schema_arrow.equals(expected, check_metadata=False):
                raise CacheShardError(
                    f"{name}: its columns are not those of the spec; found "
                    f"{self._parquet.schema_arrow}"
                )
            self._small = self._parquet.read(columns=list(_SMALL_COLUMNS)).combine_chunks()
        except (pa.ArrowException, OSError) as error:
            raise CacheShardError(f"{name}: damaged Parquet: {error}") from error
        metadata = self._parquet.metadata
        self.num_rows = metadata.num_rows
        groups = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        self._ends = np.cumsum(groups)
        self._input_ids = _from_lists(self._small["input_ids"], spec.embeds_shape[:1])
        self._decoded = _DecodedRows(self._shapes, spec.dtype, self.num_rows, scratch)

    def read(self, row: int) -> LatentSample:
        """The row, in arrays of its own."""
        key = self._small["key"][row].as_py()
        try:
            group = int(np.searchsorted(self._ends, row, side="right"))
            if group not in self._decoded.groups:
                self._decode(group)
            arrays = self._decoded.read(row)
            attributes = json.loads(self._small["attributes"][row].as_py())
            attributes.pop("key", None)
            sample = LatentSample(
                key=key,
                raw_latents=arrays["latents"],
                input_ids=self._input_ids[row].copy(),
                prompt_embeds=arrays.get("prompt_embeds"),
                caption=self._small["caption"][row].as_py(),
                attributes=attributes,
            )
            check_shapes(sample, self._spec)
        except (pa.ArrowException, OSError) as error:
            raise CacheShardError(f"{self._name}: damaged Parquet: {error}") from error
        except (ValueError, AttributeError, CacheShardError) as error:
            raise CacheShardError(f"{self._name}: {key}: {error}") from error
        return sample

    def close(self) -> None:
        """Close the file, and let go of what was decoded."""
        self._decoded.close()
        self._parquet.close()
        self._file.close()

    def _decode(self, group: int) -> None:
        table = self._parquet.read_row_group(group, columns=list(self._shapes))
        first = int(self._ends[group]) - table.num_rows
        columns = {name: _from_lists(table[name], shape) for name, shape in self._shapes.items()}
        self._decoded.write(first, columns, group)


class _DecodedRows:
    """A nameless file of rows of equal size: each one's arrays, one after the other."""

    def __init__(
        self, shapes: dict[str, tuple[int, ...]], dtype: str, num_rows: int, scratch: Path | None
    ) -> None:
        self._shapes, self._dtype = shapes, np.dtype(dtype)
        self._sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        self._row_size = sum(self._sizes.values())
        self._file: io.FileIO = tempfile.TemporaryFile(dir=scratch, buffering=0)  # noqa: SIM115
        self.groups: set[int] = set()

    def write(self, first: int, columns: dict[str, npt.NDArray[Any]], group: int) -> None:
        rows = np.concatenate(
            [column.reshape(len(column), -1) for column in columns.values()], axis=1
        )
        self._file.seek(first * self._row_size * self._dtype.itemsize)
        self._file.write(rows.tobytes())
        self.groups.add(group)

    def read(self, row: int) -> dict[str, npt.NDArray[Any]]:
        content = np.empty(self._row_size, self._dtype)
        self._file.seek(row * content.nbytes)
        if self._file.readinto(content.data) != content.nbytes:
            raise OSError("the decoded rows end early")
        arrays = {}
        start = 0
        for name, shape in self._shapes.items():
            arrays[name] = content[start : start + self._sizes[name]].reshape(shape)
            start += self._sizes[name]
        return arrays

    def close(self) -> None:
        self._file.close()


def _from_lists(column: pa.ChunkedArray, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    arrays: npt.NDArray[Any] = (
        column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
    )
    return arrays
