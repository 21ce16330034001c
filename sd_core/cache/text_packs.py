"""Packs: what a text encoder made of captions, an entry a distinct caption, by its hash."""

import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_core.cache.binary_columns import ROWS_PER_GROUP, BinaryColumns, binary_writer
from sd_core.cache.parquet_pages import PageError
from sd_core.cache.samples import CacheShardError

TextDtype = Literal["float16", "bfloat16", "float32"]
HASH_BYTES: Final = 32
_STORED_AS: Final[dict[TextDtype, np.dtype[Any]]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}
_SMALL: Final = ("sha256", "length", "input_ids")


def caption_hash(caption: str) -> bytes:
    """The 32 bytes by which a caption's entry is found: sha256 of its UTF-8."""
    return hashlib.sha256(caption.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, kw_only=True)
class PackForm:
    """What each entry of a pack holds.

    Args:
        embed_dim: D; 0 where no embeddings are stored.
        pooled_dim: P; 0 where no pooled vector is stored.
        dtype: Of both. bfloat16 is kept as its 16 bits.
    """

    embed_dim: int
    pooled_dim: int
    dtype: TextDtype

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """uint16 of bfloat16."""
        return _STORED_AS[self.dtype]

    @property
    def schema(self) -> pa.Schema:
        fields = [
            pa.field("sha256", pa.binary(HASH_BYTES), nullable=False),
            pa.field("length", pa.int32(), nullable=False),
            pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        ]
        fields += [pa.field(name, pa.binary(), nullable=False) for name in self.arrays]
        return pa.schema(fields)

    @property
    def arrays(self) -> tuple[str, ...]:
        """The columns of numbers that there are."""
        found = {"embeds": self.embed_dim, "pooled": self.pooled_dim}
        return tuple(name for name, width in found.items() if width)


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEntry:
    """One caption as one encoder sees it.

    Args:
        sha256: The caption's, 32 bytes.
        length: How many of its tokens are its own: BOS and EOS included, padding not.
        input_ids: (n,) int32, trimmed to the rung (or, where padding is masked, to `length`).
        embeds: (n, D) in the form's dtype, or None.
        pooled: (P,) likewise, or None.
    """

    sha256: bytes
    length: int
    input_ids: npt.NDArray[np.int32]
    embeds: npt.NDArray[Any] | None = None
    pooled: npt.NDArray[Any] | None = None


def write_pack(path: Path, entries: Iterable[TextEntry], form: PackForm) -> int:
    """Write a new file, in the entries' order; gives how many there were.

    Raises:
        ValueError: an entry is not of the form, or not finite; names its hash.
    """
    written = 0
    with binary_writer(str(path), form.schema) as writer:
        waiting = iter(entries)
        while group := tuple(itertools.islice(waiting, ROWS_PER_GROUP)):
            writer.write_table(_table(group, form))
            written += len(group)
    return written


def _table(entries: tuple[TextEntry, ...], form: PackForm) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in form.schema.names}
    for entry in entries:
        _check(entry, form)
        columns["sha256"].append(entry.sha256)
        columns["length"].append(entry.length)
        columns["input_ids"].append(entry.input_ids)
        for name in form.arrays:
            array = np.ascontiguousarray(getattr(entry, name), form.numpy_dtype)
            columns[name].append(array.tobytes())
    return pa.table(
        [pa.array(columns[field.name], field.type) for field in form.schema], schema=form.schema
    )


def _check(entry: TextEntry, form: PackForm) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "embeds": (len(entry.input_ids), form.embed_dim),
        "pooled": (form.pooled_dim,),
    }
    for name in form.arrays:
        array = getattr(entry, name)
        if array is None or array.shape != shapes[name] or array.dtype != form.numpy_dtype:
            found = "none" if array is None else f"{array.dtype} {array.shape}"
            expected = f"{form.numpy_dtype} {shapes[name]}"
            raise ValueError(f"{entry.sha256.hex()}: {name} is {found}, the pack's {expected}")
        if not _is_finite(array, form):
            raise ValueError(f"{entry.sha256.hex()}: {name} is not finite")


def _is_finite(array: npt.NDArray[Any], form: PackForm) -> bool:
    if form.dtype == "bfloat16":
        return bool(((array & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(array).all())


class PackReader:
    """An open pack.

    Args:
        file: A real file, which the reader closes.
        form: What its entries hold.
        name: Its path, for errors.

    Raises:
        CacheShardError: it is damaged, or of another form.
    """

    def __init__(self, file: io.FileIO, form: PackForm, *, name: str) -> None:
        self._file, self._form, self._name = file, form, name
        with ExitStack() as failing:
            failing.callback(file.close)
            self._open()
            failing.pop_all()

    def _open(self) -> None:
        file, form, name = self._file, self._form, self._name
        try:
            file.seek(0)
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            if not parquet.schema_arrow.equals(form.schema, check_metadata=False):
                found = parquet.schema_arrow.names
                raise CacheShardError(f"{name}: its columns are {found}, not {form.schema.names}")
            small = parquet.read(columns=list(_SMALL), use_threads=False).combine_chunks()
            self.hashes: list[bytes] = small["sha256"].to_pylist()
            self.lengths: list[int] = small["length"].to_pylist()
            self._input_ids = small["input_ids"]
            self._values = BinaryColumns(file, parquet, form.arrays)
        except (pa.ArrowException, OSError, PageError, ValueError) as error:
            raise CacheShardError(f"{name}: damaged pack: {error}") from error

    def __len__(self) -> int:
        return len(self.hashes)

    def read(self, row: int) -> TextEntry:
        """One entry; raises `CacheShardError` naming pack and hash."""
        input_ids = np.asarray(self._input_ids[row].values, np.int32)
        arrays: dict[str, npt.NDArray[Any]] = {}
        try:
            for name in self._form.arrays:
                values = np.frombuffer(self._values.read(name, row), self._form.numpy_dtype)
                width = self._form.embed_dim if name == "embeds" else self._form.pooled_dim
                shape = (len(input_ids), width) if name == "embeds" else (width,)
                arrays[name] = values.reshape(shape)
        except (OSError, PageError, ValueError) as error:
            where = f"{self._name}: {self.hashes[row].hex()}"
            raise CacheShardError(f"{where}: damaged pack: {error}") from error
        return TextEntry(
            sha256=self.hashes[row], length=self.lengths[row], input_ids=input_ids, **arrays
        )

    def __iter__(self) -> Iterator[TextEntry]:
        return map(self.read, range(len(self)))

    def close(self) -> None:
        self._file.close()
