"""The stored pictures of single rows, and small ones made of them."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Final

from PIL import Image

from pipelines.report.ledgers import Ledgers
from pipelines.run.crops import images_file
from pipelines.run.images import damaged, image_places
from pipelines.run.revision_files import RevisionFiles

THUMBNAIL_PX: Final = 144
_QUALITY: Final = 60
_SHARDS_HELD: Final = 16
_Places = tuple[str, Mapping[str, tuple[int, int]]]


@dataclass(frozen=True)
class StoredPictures:
    """Reads the picture of any row by its key; where each lies in a tar is found out once."""

    run: RevisionFiles

    def read(self, shard_id: int, key: str) -> bytes | None:
        """The file as it is stored; None where the row has none, or a clean-up removed it.

        Raises:
            ShardError: the shard's tar is missing or damaged.
        """
        path, places = self._found(shard_id)
        if key not in places:
            return None
        (at, num_bytes), store = places[key], self.run.store
        with self.run.whole(path):
            found = store.filesystem.cat_file(store.absolute(path), start=at, end=at + num_bytes)
            return bytes(found)

    def _found(self, shard_id: int) -> _Places:
        with self._lock:
            return self._of_shard(shard_id)

    @cached_property
    def _lock(self) -> Lock:
        return Lock()

    @cached_property
    def _of_shard(self) -> Callable[[int], _Places]:
        return lru_cache(maxsize=_SHARDS_HELD)(self._find)

    def _find(self, shard_id: int) -> _Places:
        manifest = self.run.committed(self.run.origin).find(shard_id)
        crops = manifest.file("images") if manifest is not None else None
        entry = images_file(self.run.store, crops)
        if entry is None:
            return "", {}
        with self.run.whole(entry.path), self.run.store.open(entry.path) as stream:
            return entry.path, image_places(stream, fault=damaged(entry.path))


def read_thumbnails(ledgers: Ledgers, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Key to `data:` URI of each row that has a picture in the run, and one that can be read."""
    wanted = {
        (row["shard_id"], row["key"])
        for row in rows
        if row["sha256"] is not None and row["width"] is not None
    }
    stored, found = StoredPictures(ledgers), dict[str, str]()
    for shard_id, key in sorted(wanted):
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            if (content := stored.read(shard_id, key)) is not None:
                found[key] = thumbnail(content)  # a damaged one is not shown, and ends no report
    return found


def thumbnail(content: bytes) -> str:
    """A picture's file made small: a `data:` URI of WebP, at most `THUMBNAIL_PX` a side."""
    small = small_picture(content, THUMBNAIL_PX, quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(small).decode("ascii")


def small_picture(content: bytes, side_px: int, *, quality: int) -> bytes:
    """A picture's file as WebP of at most so many pixels a side; raises as Pillow does."""
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (2 * side_px, 2 * side_px))
        small = image.convert("RGB")
        small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=quality, method=2)
    return stream.getvalue()
