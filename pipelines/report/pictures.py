"""Small pictures of the rows that are shown, as data: URIs."""

import base64
import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

from pipelines.report.ledgers import Ledgers
from pipelines.run.crops import images_file
from pipelines.run.images import damaged, image_bytes
from sd_core.tar_members import iterate_members

THUMBNAIL_PX = 144
_QUALITY = 60


def read_thumbnails(ledgers: Ledgers, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Key to `data:` URI of each row that has a picture in the run, and one that can be read."""
    wanted: dict[int, set[str]] = {}
    for row in rows:
        if row["sha256"] is not None and row["width"] is not None:
            wanted.setdefault(row["shard_id"], set()).add(row["key"])
    found: dict[str, str] = {}
    for shard_id, keys in sorted(wanted.items()):
        for key, content in _stored(ledgers, shard_id, keys):
            with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                found[key] = thumbnail(content)  # a damaged one is not shown, and ends no report
    return found


def thumbnail(content: bytes) -> str:
    """A picture's file made small: a `data:` URI of WebP, at most `THUMBNAIL_PX` a side."""
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _stored(ledgers: Ledgers, shard_id: int, keys: set[str]) -> Iterable[tuple[str, bytes]]:
    manifest = ledgers.committed(ledgers.origin).find(shard_id)
    crops = manifest.file("images") if manifest is not None else None
    entry = images_file(ledgers.store, crops)
    if entry is None:
        return
    left = set(keys)

    def max_bytes(name: str) -> int:
        return image_bytes(name) if name.partition(".")[0] in left else 0

    with ledgers.store.open(entry.path) as stream:
        fault = damaged(entry.path)
        for member in iterate_members(stream, fault=fault, max_bytes=max_bytes, seek=True):
            if member.content is None:
                continue
            yield member.key, member.content
            left.discard(member.key)
            if not left:
                return
