"""The images that an upscaler enlarges: what a curated or generated run stored, found by key."""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from pipelines.config import ConfigError
from pipelines.run.checked import open_checked
from pipelines.run.committed import Committed
from pipelines.run.crops import images_file
from pipelines.run.images import damaged, decode_crop, image_places
from pipelines.run.manifest import FileEntry, ShardError
from pipelines.run.record import read_revision
from pipelines.run.revision_files import origin_of
from pipelines.run.store import RunStore
from pipelines.steps.generate.config import InitConfig
from pipelines.steps.generate.rows import ImageRow

_TARS_REMEMBERED = 256
_WHERE = "generate.init.path"
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
        steps = read_revision(self._store).steps
        origin = origin_of(steps)
        if origin is None or "select" not in steps:
            raise ConfigError(
                f"generate.init.path: {config.path} is no run whose select is complete; name a "
                "curated or generated run"
            )
        made = {
            name: Committed(self._store, name, step.fingerprint) for name, step in steps.items()
        }
        self._images, self._verdicts = made[origin], made["select"]
        self._num_shards = steps["select"].num_shards
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
        rows = self._ledger(shard_id, ["key", "caption"])
        found: Any = rows["caption"][rows["key"].to_pylist().index(key)].as_py()
        return found or ""

    def mask(self, row: ImageRow) -> None:
        """A picture is enlarged as a whole: rows with a mask were refused before."""

    def read(self, key: str) -> Tensor:
        """(3, h, w) float32 in [-1, 1]; raises `ShardError` where the stored image is damaged."""
        shard_id = self._places[key][0]
        entry = images_file(self._store, self._images.file(shard_id, "images"))
        if entry is None:
            raise ShardError(f"{_WHERE}: {self._images.step} shard {shard_id} has no images")
        path = entry.path
        place = self._members(entry).get(key)
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
        for shard_id in range(self._num_shards):
            rows = self._ledger(shard_id, _COLUMNS)
            for row in rows.filter(rows["kept"]).to_pylist():
                places[row["key"]] = (shard_id, row["width"], row["height"])
        return places

    def _members_of(self, entry: FileEntry) -> Mapping[str, tuple[int, int]]:
        with open_checked(self._store, entry) as stream:
            return image_places(stream, fault=damaged(entry.path))

    def _ledger(self, shard_id: int, columns: Sequence[str]) -> pa.Table:
        rows = self._verdicts.table(shard_id, "ledger", columns=columns)
        if rows is None:
            raise ShardError(f"{_WHERE}: select shard {shard_id} has no ledger")
        return rows
