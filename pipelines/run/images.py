"""Read the crops that download stored: a shard's tar, one decoded image at a time, in order."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipelines.run.checked import read_checked
from pipelines.run.crops import open_images
from pipelines.run.manifest import FileEntry, Manifest, ShardError
from pipelines.run.on_threads import in_order
from pipelines.run.store import RunStore
from sd_core.tar_members import TarFault, iterate_members

_BATCHES_HELD = 4
_IMAGE_SUFFIXES = ("jpg", "png", "webp")
FACTS = (
    "row",
    "key",
    "caption",
    "reason",
    "sha256",
    "original_width",
    "original_height",
    "width",
    "height",
)


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """One crop and the facts of its row.

    Attributes:
        facts: Columns row, key, caption (perhaps null), sha256, and sizes of `facts/download`.
        pixels: (H, W, 3) uint8 RGB.
    """

    facts: dict[str, Any]
    pixels: npt.NDArray[np.uint8]


def iterate_images(
    store: RunStore,
    manifest: Manifest,
    *,
    keys: frozenset[str] | None = None,
    on_failure: Callable[[dict[str, Any], ShardError], None] | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    num_threads: int = 1,
) -> Iterator[StoredImage]:
    """What `Committed.images` gives, of a shard of `download` or `generate`."""
    crops = manifest.file("images")
    with open_images(store, crops) as found:
        if found is not None:
            images, stream = found
            encoded = _encoded(store, manifest, images, stream, keys, rows)
            decode = partial(_decoded, path=store.place(images.path))
            on_threads = num_threads > 1  # JPEG, PNG and WebP decode beside each other
            for row, pixels in (
                in_order(decode, encoded, num_threads=num_threads)
                if on_threads
                else map(decode, encoded)
            ):
                if not isinstance(pixels, ShardError):
                    yield StoredImage(facts=row, pixels=pixels)
                elif on_failure is None:
                    raise pixels
                else:
                    on_failure(row, pixels)
        elif manifest.kept and not (crops and keys is not None):
            raise _no_tar(manifest)


def _decoded(
    image: tuple[dict[str, Any], bytes], *, path: str
) -> tuple[dict[str, Any], npt.NDArray[np.uint8] | ShardError]:
    row, encoded = image
    try:
        return row, decode_crop(encoded, f"{path}: {row['key']}")
    except ShardError as error:
        return row, error


def _encoded(
    store: RunStore,
    manifest: Manifest,
    images: FileEntry,
    stream: IO[bytes],
    keys: frozenset[str] | None,
    known: Sequence[dict[str, Any]] | None,
) -> Iterator[tuple[dict[str, Any], bytes]]:
    origin, shard_id = manifest.step, manifest.shard_id
    facts = manifest.file(f"facts/{origin}")
    if facts is None:
        raise _no_tar(manifest)
    rows = read_checked(store, facts, FACTS).to_pylist() if known is None else known
    stored = iter([row for row in rows if row.pop("reason") is None])
    members = iterate_encoded(stream, images)
    is_left = images != manifest.file("images")
    if is_left or (known is not None and keys is not None):
        if keys is None:
            raise ShardError(f"{origin} shard {shard_id}: only the kept images are left")
        asked = keys
        stored = (row for row in stored if row["key"] in asked)
        members = (member for member in members if member[0] in asked)
    for key, encoded in members:
        row = next(stored, None)
        if row is None or row["key"] != key:
            raise ShardError(
                f"{store.place(images.path)}: {key} is not the next row of {facts.path}"
            )
        if keys is not None and key not in keys:
            continue
        yield row, encoded
    if next(stored, None) is not None:
        raise ShardError(f"{store.place(images.path)}: holds fewer images than {facts.path} has")


def _no_tar(manifest: Manifest) -> ShardError:
    told = f"{manifest.step} shard {manifest.shard_id}"
    return ShardError(f"{told}: {manifest.kept} images, but no tar")


def batches(images: Iterator[StoredImage], *, size: int) -> Iterator[Sequence[StoredImage]]:
    """Group images into lists of `size`; the last may be shorter."""
    group: list[StoredImage] = []
    for image in images:
        group.append(image)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def batches_of_one_size(
    images: Iterator[StoredImage], *, size: int
) -> Iterator[Sequence[StoredImage]]:
    """Group images into lists of at most `size` whose pixels are of one shape, in order within it.

    At most four batches are held: of many shapes, the fullest list goes first, unfilled.
    """
    groups: dict[tuple[int, ...], list[StoredImage]] = {}
    for image in images:
        shape = image.pixels.shape
        group = groups.setdefault(shape, [])
        group.append(image)
        if len(group) == size:
            yield groups.pop(shape)
        elif sum(map(len, groups.values())) >= _BATCHES_HELD * size:
            yield groups.pop(max(groups, key=lambda held: len(groups[held])))
    yield from groups.values()


def stack_pixels(images: Sequence[StoredImage], *, out: npt.NDArray[np.uint8], where: str) -> None:
    """Stack into (batch_size, H, W, 3); missing ones at the end are black.

    A model's last bit depends on the size of its batch, so that is always the same.

    Raises:
        ShardError: they are not of one size.
    """
    for slot, image in zip(out, images, strict=False):
        if image.pixels.shape != slot.shape:
            raise ShardError(
                f"{where}: {image.facts['key']} is {image.pixels.shape}, others {slot.shape}"
            )
        slot[...] = image.pixels
    out[len(images) :] = 0


def iterate_encoded(stream: IO[bytes], entry: FileEntry) -> Iterator[tuple[str, bytes]]:
    """`(key, file)` of each image of a shard's tar, which is open."""
    for member in iterate_members(stream, fault=damaged(entry.path), max_bytes=image_bytes):
        if member.content is not None:
            yield member.key, member.content


def image_places(stream: IO[bytes], *, fault: TarFault) -> dict[str, tuple[int, int]]:
    """Offset and size of each key's image in a shard's tar, which must be seekable."""
    members = iterate_members(stream, fault=fault, max_bytes=lambda _: 0, seek=True)
    return {
        member.key: (member.data_byte, member.num_bytes)
        for member in members
        if member.is_file and image_bytes(member.name)
    }


def image_bytes(member: str) -> int:
    """How much to read of a member of a shard's tar, by its name: all of an image, else nothing."""
    return sys.maxsize if member.partition(".")[2] in _IMAGE_SUFFIXES else 0


def damaged(path: str) -> TarFault:
    """The error of a tar of a run."""
    return lambda text: ShardError(f"{path}: damaged tar: {text}")


def decode_crop(encoded: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Decode a stored crop to (H, W, 3) uint8 RGB; raises `ShardError` naming `where`."""
    try:
        if encoded[:2] == b"\xff\xd8":
            pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, "RGB")
            return pixels
        decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except (ValueError, cv2.error) as error:
        raise ShardError(f"{where}: a stored image does not decode: {error}") from error
    if decoded is None:
        raise ShardError(f"{where}: a stored image does not decode")
    return np.asarray(decoded, dtype=np.uint8)
