"""The images that an upscaler enlarges: what a curated or generated run stored, found by key."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from pipelines.config import ConfigError
from pipelines.run.images import damaged, decode_crop, image_places
from pipelines.run.manifest import Manifest, ShardError, read_manifest
from pipelines.run.record import ORIGIN_STEPS, read_revision
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table
from pipelines.steps.generate.config import InitConfig
from pipelines.steps.generate.rows import ImageRow

_TARS_REMEMBERED = 256
_COLUMNS = ("key", "kept", "width", "height")


class SourcePictures:
    """Kept images of a run by key; which lie where is read from its ledger when first asked for.

    Args:
        config: Which run.
        enlargement: How many times the result's sides are the picture's.

    Raises:
        ConfigError: there is no such run, or its select is not complete.
    """

    def __init__(self, config: InitConfig, *, enlargement: int) -> None:
        self._store = RunStore(config.path, config.storage_options)
        self._enlargement = enlargement
        self._steps = read_revision(self._store).steps
        origins = [name for name in ORIGIN_STEPS if name in self._steps]
        if not origins or "select" not in self._steps:
            raise ConfigError(
                f"generate.init.path: {config.path} is no run whose select is complete; name a "
                "curated or generated run"
            )
        self._origin = origins[0]
        self._members = lru_cache(maxsize=_TARS_REMEMBERED)(self._members_of)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def result_size(self, key: str) -> tuple[int, int]:
        """Width and height in pixels that the picture is enlarged to."""
        _, width, height = self._places[key]
        return width * self._enlargement, height * self._enlargement

    def caption(self, key: str) -> str:
        """The picture's own caption."""
        shard_id = self._places[key][0]
        path = self._file("select", "ledger", shard_id)
        rows = read_table(self._store, path, columns=["key", "caption"])
        found: Any = rows["caption"][rows["key"].to_pylist().index(key)].as_py()
        return found or ""

    def mask(self, row: ImageRow) -> None:
        """A picture is enlarged as a whole: rows with a mask were refused before."""

    def read(self, key: str) -> Tensor:
        """(3, h, w) float32 in [-1, 1]; raises `ShardError` where the stored image is damaged."""
        path = self._file(self._origin, "images", self._places[key][0])
        place = self._members(path).get(key)
        if place is None:
            raise ShardError(f"{path}: has no image of {key}")
        start, length = place
        with self._store.open(path) as stream:
            stream.seek(start)
            encoded = stream.read(length)
        pixels = torch.from_numpy(decode_crop(encoded, f"{path}: {key}"))
        return pixels.permute(2, 0, 1).float() / 127.5 - 1

    def close(self) -> None:
        """Nothing stays open."""

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, int, int]]:
        """Each kept key's shard, width and height; memory is about 200 bytes an image."""
        places = {}
        for shard_id in range(self._steps["select"].num_shards):
            path = self._file("select", "ledger", shard_id)
            rows = read_table(self._store, path, columns=_COLUMNS)
            for row in rows.filter(rows["kept"]).to_pylist():
                places[row["key"]] = (shard_id, row["width"], row["height"])
        return places

    def _members_of(self, path: str) -> Mapping[str, tuple[int, int]]:
        with self._store.open(path) as stream:
            return image_places(stream, fault=damaged(path))

    def _file(self, step: str, folder: str, shard_id: int) -> str:
        fingerprint = self._steps[step].fingerprint
        manifest: Manifest | None = read_manifest(self._store, step, fingerprint, shard_id)
        entry = None if manifest is None else manifest.file(folder)
        if entry is None:
            raise ShardError(f"generate.init.path: {step} shard {shard_id} has no {folder}")
        return entry.path
