"""Random access to the rows of a WebDataset tar: headers walked once, then one read a row."""

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_core.cache.npy import NpyError, NpyFormats
from sd_core.cache.samples import CacheShardError, LatentSample, check_shapes
from sd_core.cache.spec import CacheSpec
from sd_core.plain_json import parse_json

_BLOCK = 512
_FILE_TYPES = (0x30, 0)  # "0", or the NUL of old tars


class TarShardReader:
    """An open tar shard.

    Args:
        file: A real file, which the reader closes.
        spec: The cache's.
        name: The shard's path, for errors.
        scratch: Not needed: rows are read where they lie.

    Raises:
        CacheShardError: it is not a whole tar of samples.
    """

    def __init__(
        self, file: io.FileIO, spec: CacheSpec, *, name: str, scratch: Path | None = None
    ) -> None:
        self._file, self._spec, self._name = file, spec, name
        self._extensions = ["latents.npy", "input_ids.npy", "txt", "json"]
        if spec.prompt_embeds:
            self._extensions.append("prompt_embeds.npy")
        self._arrays = {
            "latents.npy": NpyFormats.of(spec.latents_shapes, spec.dtype),
            "input_ids.npy": NpyFormats.of((spec.embeds_shape[:1],), "int32"),
            "prompt_embeds.npy": NpyFormats.of((spec.embeds_shape,), spec.dtype),
        }
        self._keys, self._offsets, self._sizes = self._index()
        self.num_rows = len(self._keys)

    @property
    def keys(self) -> list[str]:
        """Every row's key, in order."""
        keys: list[str] = self._keys.tolist()
        return keys

    def read(self, row: int) -> LatentSample:
        key = str(self._keys[row])
        offsets, sizes = self._offsets[row], self._sizes[row]
        begin, end = int(offsets.min()), int((offsets + sizes).max())
        content = np.empty(end - begin, np.uint8)
        members: dict[str, Any] = {}
        try:
            self._file.seek(begin)
            if self._file.readinto(content.data) != len(content):
                raise CacheShardError("its data ends early")
            for extension, offset, size in zip(
                self._extensions, (offsets - begin).tolist(), sizes.tolist(), strict=True
            ):
                member = content[offset : offset + size]
                form = self._arrays.get(extension)
                members[extension] = member.tobytes() if form is None else form.parse(member)
            attributes = parse_json(members["json"])
            attributes.pop("key", None)
            sample = LatentSample(
                key=key,
                raw_latents=members["latents.npy"],
                input_ids=members["input_ids.npy"],
                prompt_embeds=members.get("prompt_embeds.npy"),
                caption=members["txt"].decode(),
                attributes=attributes,
            )
            check_shapes(sample, self._spec)
        except (OSError, ValueError, TypeError, AttributeError, NpyError, CacheShardError) as error:
            raise CacheShardError(f"{self._name}: {key}: {error}") from error
        return sample

    def close(self) -> None:
        self._file.close()

    def _index(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Keys (n,), and offsets and sizes (n, members) of each row's members."""
        keys: list[str] = []
        rows: list[dict[str, tuple[int, int]]] = []
        for member, offset, size in self._walk():
            key, _, extension = member.partition(".")
            if not keys or key != keys[-1]:
                keys.append(key)
                rows.append({})
            rows[-1][extension] = (offset, size)
        try:
            places = np.array(
                [[members[extension] for extension in self._extensions] for members in rows],
                dtype=np.int64,
            ).reshape(len(rows), len(self._extensions), 2)
        except KeyError as error:
            key = next(
                k for k, members in zip(keys, rows, strict=True) if error.args[0] not in members
            )
            raise CacheShardError(f"{self._name}: {key} lacks its member {error}") from error
        return np.array(keys), places[..., 0], places[..., 1]

    def _walk(self) -> list[tuple[str, int, int]]:
        """Name, offset and size of each file in the tar."""
        try:
            view = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise CacheShardError(f"{self._name}: damaged tar: {error}") from error
        with view:
            return _walk_headers(view, name=self._name)


def _walk_headers(view: mmap.mmap, *, name: str) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    headers: list[bytes] = []
    sums: list[int] = []
    offset = 0
    while True:
        header = view[offset : offset + _BLOCK]
        if len(header) < _BLOCK:
            raise CacheShardError(f"{name}: damaged tar: its end is missing")
        if header[0] == 0 and not any(header):
            break
        try:
            member, size = header[:100].rstrip(b"\0").decode(), _octal(header[124:136])
            sums.append(_octal(header[148:156]))
        except ValueError:
            raise CacheShardError(f"{name}: damaged tar: no header at byte {offset}") from None
        if header[156] not in _FILE_TYPES:
            raise CacheShardError(
                f"{name}: {member} is not a plain file; a cache's tar has no other"
            )
        headers.append(header)
        found.append((member, offset + _BLOCK, size))
        offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
    wrong = np.flatnonzero(_sums(headers) != np.array(sums))
    if len(wrong):
        offset = found[int(wrong[0])][1] - _BLOCK
        raise CacheShardError(
            f"{name}: damaged tar: the header at byte {offset} has another checksum"
        )
    return found


def _sums(headers: list[bytes]) -> npt.NDArray[np.int64]:
    """Each header's sum of bytes, the eight digits of its own checksum counted as spaces."""
    blocks = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, _BLOCK)
    digits = blocks[:, 148:156].sum(axis=1, dtype=np.int64)
    sums: npt.NDArray[np.int64] = blocks.sum(axis=1, dtype=np.int64) - digits + 8 * ord(" ")
    return sums


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits.isdigit():
        raise ValueError("not a number")
    return int(digits, 8)
