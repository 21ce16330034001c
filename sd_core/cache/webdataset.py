"""Latent shards as WebDataset tars that plain `webdataset` and Hugging Face `datasets` read."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from sd_core.cache.samples import (
    CacheShardError,
    LatentSample,
    as_stored,
    attributes_json,
    check_shapes,
)
from sd_core.cache.spec import CacheSpec


class WebDatasetShardWriter:
    """Members `{key}.latents.npy`, `.input_ids.npy`, `.prompt_embeds.npy`, `.txt`, `.json`.

    The headers hold no time, user or mode of this machine, so the same samples give the same
    bytes.
    """

    def __init__(self, path: Path, spec: CacheSpec) -> None:
        self._spec = spec
        self._archive = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.num_written = 0

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored.

        Raises:
            ValueError: the key is too long for a tar; nothing is written either.
        """
        stored = as_stored(sample, self._spec)
        if stored is None:
            return False
        members = {
            "latents.npy": _npy(stored.raw_latents),
            "input_ids.npy": _npy(stored.input_ids),
            "txt": stored.caption.encode(),
            "json": attributes_json(stored),
        }
        if stored.prompt_embeds is not None:
            members["prompt_embeds.npy"] = _npy(stored.prompt_embeds)
        # All headers first: a sample whose names are too long for one leaves nothing half-written.
        headers = {name: _header(stored.key, name, members[name]) for name in members}
        for name in [name for name in _ORDER if name in members]:
            self._archive.addfile(headers[name], io.BytesIO(members[name]))
            self._archive.members.clear()  # type: ignore[attr-defined]  # or it remembers them all
        self.num_written += 1
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()


_ORDER = ("latents.npy", "input_ids.npy", "prompt_embeds.npy", "txt", "json")


def _header(key: str, extension: str, content: bytes) -> tarfile.TarInfo:
    """A member's header; raises ValueError where its name is longer than 100 bytes."""
    member = tarfile.TarInfo(f"{key}.{extension}")
    member.size = len(content)
    member.mode = 0o444
    member.tobuf(tarfile.USTAR_FORMAT)
    return member


def iterate_webdataset(stream: IO[bytes], spec: CacheSpec, *, name: str) -> Iterator[LatentSample]:
    """Read a tar's samples in order, streaming; raises `CacheShardError`."""
    counted = _CountingReader(stream)
    try:
        with tarfile.open(fileobj=counted, mode="r|") as archive:
            for key, members in _grouped(archive):
                yield _to_sample(key, members, spec, name)
            # tarfile takes a file that ends between two members for a whole one.
            if counted.num_read < archive.offset + tarfile.BLOCKSIZE:
                raise CacheShardError(f"{name}: damaged tar: its end is missing")
    except (tarfile.TarError, EOFError) as error:
        raise CacheShardError(f"{name}: damaged tar: {error}") from error


class _CountingReader(io.RawIOBase):
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.num_read = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self.num_read += len(content)
        return content


def _grouped(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    current: str | None = None
    members: dict[str, bytes] = {}
    for member in archive:
        archive.members.clear()  # type: ignore[attr-defined]  # or it remembers them all
        content = archive.extractfile(member)
        if content is None:
            continue
        key, _, extension = member.name.partition(".")
        if key != current and current is not None:
            yield current, members
            members = {}
        current = key
        members[extension] = content.read()
    if current is not None:
        yield current, members


def _to_sample(key: str, members: dict[str, bytes], spec: CacheSpec, name: str) -> LatentSample:
    try:
        attributes: dict[str, Any] = json.loads(members["json"])
        attributes.pop("key", None)
        embeds = members.get("prompt_embeds.npy")
        sample = LatentSample(
            key=key,
            raw_latents=_from_npy(members["latents.npy"]),
            input_ids=_from_npy(members["input_ids.npy"]),
            prompt_embeds=None if embeds is None else _from_npy(embeds),
            caption=members["txt"].decode(),
            attributes=attributes,
        )
        check_shapes(sample, spec)
    except KeyError as error:
        raise CacheShardError(f"{name}: {key} lacks its member {error}") from error
    except (ValueError, EOFError, CacheShardError) as error:
        raise CacheShardError(f"{name}: {key}: {error}") from error
    return sample


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _from_npy(content: bytes) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
