"""What a kept set can be written as, for whoever reads it elsewhere; a line of `EXPORTS` each."""

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.tar_members import SampleTarWriter

_IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_LATENTS: Final = pa.field("latents.npy", pa.binary())
_ROWS_AT_ONCE = 100
_DTYPES: Final = {"float": "float32", "double": "float64", "halffloat": "float16"}


@dataclass(frozen=True, kw_only=True)
class ExportedRow:
    """A kept row on its way out.

    Attributes:
        suffix: Of the image file: `jpg`, `png` or `webp`.
        fields: Columns of the ledger, by name.
        latents: (C, h, w), or (2C, h, w) moments, unscaled; None where they were not asked for.
    """

    key: str
    caption: str | None
    image: bytes
    suffix: str
    fields: Mapping[str, Any]
    latents: npt.NDArray[Any] | None = None

    @property
    def plain_fields(self) -> dict[str, Any]:
        """The fields as JSON holds them: numbers that are not finite are null."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in self.fields.items()
        }

    @property
    def latents_file(self) -> bytes | None:
        """The latents as numpy's file."""
        if self.latents is None:
            return None
        stream = io.BytesIO()
        np.save(stream, self.latents, allow_pickle=False)
        return stream.getvalue()


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One entry of `EXPORTS`.

    Attributes:
        name: Of a shard's file, by its number and how many there are.
        write: Writes a shard's rows into a local file; of a folder, into a local folder, whose
            files are then put side by side.
        is_folder: Whether a shard is several files.
        card: What the card's header says of the files, for Hugging Face.
    """

    name: Callable[[int, int], str]
    write: Callable[[Path, Iterable[ExportedRow], pa.Schema], None]
    data_files: str
    is_folder: bool = False


def _write_tar(path: Path, rows: Iterable[ExportedRow], fields: pa.Schema) -> None:
    with SampleTarWriter(path, extended=True) as tar:
        for row in rows:
            told = {"key": row.key, "caption": row.caption, **row.plain_fields}
            files = {
                row.suffix: row.image,
                "txt": (row.caption or "").encode(),
                "json": json.dumps(told, ensure_ascii=False, allow_nan=False).encode(),
            }
            if (latents := row.latents_file) is not None:
                files["latents.npy"] = latents
            tar.write(row.key, files)


def _write_parquet(path: Path, rows: Iterable[ExportedRow], fields: pa.Schema) -> None:
    schema = pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field(
                "image", _IMAGE
            ),  # as `datasets` has it, which else reads it as a plain struct
            pa.field("caption", pa.string()),
            *fields,
        ],
        metadata={"huggingface": json.dumps({"info": {"features": _features(fields)}})},
    )
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in _batches(rows):
            told = [
                {
                    **row.fields,
                    "key": row.key,
                    "caption": row.caption,
                    "image": {"bytes": row.image, "path": f"{row.key}.{row.suffix}"},
                    _LATENTS.name: row.latents_file,
                }
                for row in batch
            ]
            writer.write_table(pa.Table.from_pylist(told, schema=schema))


def _features(fields: pa.Schema) -> dict[str, Any]:
    """The columns as Hugging Face's `datasets` names their types, so that images are images."""
    texts = [pa.field("key", pa.string()), pa.field("caption", pa.string())]
    plain = {
        field.name: {"dtype": _DTYPES.get(str(field.type), str(field.type)), "_type": "Value"}
        for field in (*texts, *fields)
    }
    return {"image": {"_type": "Image"}, **plain}


def _batches(rows: Iterable[ExportedRow]) -> Iterator[list[ExportedRow]]:
    batch: list[ExportedRow] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_folder(path: Path, rows: Iterable[ExportedRow], fields: pa.Schema) -> None:
    path.mkdir()
    with (path / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for row in rows:
            name = f"{row.key}.{row.suffix}"
            (path / name).write_bytes(row.image)
            if (latents := row.latents_file) is not None:
                (path / f"{row.key}.latents.npy").write_bytes(latents)
            told = {"file_name": name, "text": row.caption, "key": row.key, **row.plain_fields}
            lines.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")


EXPORTS: Final = {
    "webdataset": ExportFormat(
        name=lambda number, count: f"{number:06d}.tar", write=_write_tar, data_files="*.tar"
    ),
    "parquet": ExportFormat(
        name=lambda number, count: f"{number:06d}.parquet",
        write=_write_parquet,
        data_files="*.parquet",
    ),
    "huggingface": ExportFormat(
        name=lambda number, count: f"data/train-{number:05d}-of-{count:05d}.parquet",
        write=_write_parquet,
        data_files="data/train-*.parquet",
    ),
    "folder": ExportFormat(
        name=lambda number, count: f"{number:06d}",
        write=_write_folder,
        data_files="**",
        is_folder=True,
    ),
}
