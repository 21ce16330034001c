"""Latent shards as WebDataset tars that plain `webdataset` and Hugging Face `datasets` read."""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from sd_core.cache.npy import NpyError, NpyFormats
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
from sd_core.tar_members import SampleTarWriter, iterate_tar_samples


class WebDatasetShardWriter:
    """Members `{key}.latents.npy`, `.input_ids.npy`, `.prompt_embeds.npy`, `.txt`, `.json`."""

    def __init__(self, path: Path, spec: CacheSpec) -> None:
        self._spec = spec
        self._tar = SampleTarWriter(path)
        self._rows = BucketRows(spec)
        self.num_written = 0

    @property
    def bucket_rows(self) -> tuple[int, ...] | None:
        """How many samples there are of each size; None where there is one size."""
        return self._rows.counts

    def write(self, sample: LatentSample) -> bool:
        """Store a sample; False, and nothing written, where a value is not finite as stored.

        Raises:
            ValueError: the key is too long for a tar; nothing is written either.
        """
        stored = as_stored(sample, self._spec)
        if stored is None:
            return False
        self._rows.add(stored)
        files = {
            "latents.npy": _npy(stored.raw_latents),
            "input_ids.npy": _npy(stored.input_ids),
        }
        if stored.prompt_embeds is not None:
            files["prompt_embeds.npy"] = _npy(stored.prompt_embeds)
        files |= {"txt": stored.caption.encode(), "json": attributes_json(stored)}
        self._tar.write(stored.key, files)
        self.num_written += 1
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._tar.close()


def iterate_webdataset(stream: IO[bytes], spec: CacheSpec, *, name: str) -> Iterator[LatentSample]:
    """Read a tar's samples in order, streaming; raises `CacheShardError`."""
    for found in iterate_tar_samples(
        stream, fault=lambda text: CacheShardError(f"{name}: damaged tar: {text}")
    ):
        yield _to_sample(found.key, found.files, spec, name)


def _to_sample(key: str, members: Mapping[str, bytes], spec: CacheSpec, name: str) -> LatentSample:
    try:
        attributes: dict[str, Any] = parse_json(members["json"])
        attributes.pop("key", None)
        embeds = members.get("prompt_embeds.npy")
        sample = LatentSample(
            key=key,
            raw_latents=_array(members["latents.npy"], spec.latents_shapes, spec.dtype),
            input_ids=_array(members["input_ids.npy"], (spec.embeds_shape[:1],), "int32"),
            prompt_embeds=None
            if embeds is None
            else _array(embeds, (spec.embeds_shape,), spec.dtype),
            caption=members["txt"].decode(),
            attributes=attributes,
        )
        check_shapes(sample, spec)
    except KeyError as error:
        raise CacheShardError(f"{name}: {key} lacks its member {error}") from error
    except (ValueError, NpyError, CacheShardError) as error:
        raise CacheShardError(f"{name}: {key}: {error}") from error
    return sample


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _array(content: bytes, shapes: tuple[tuple[int, ...], ...], dtype: str) -> npt.NDArray[Any]:
    return NpyFormats.of(shapes, dtype).parse(np.frombuffer(content, np.uint8)).copy()
