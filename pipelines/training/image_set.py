"""A curated run's kept images: what there is, and any of them at random."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipelines.run.checked import open_checked, read_checked
from pipelines.run.committed import Committed
from pipelines.run.crops import images_file
from pipelines.run.images import decode_crop, image_places
from pipelines.run.manifest import FileEntry, Manifest, ShardError, sha256_of
from pipelines.run.on_threads import in_order
from pipelines.run.record import read_revision, read_run
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from sd_core.errors import FoundryError, InputError

_COLUMNS = ("key", "kept", "width", "height")


class ImageSetError(FoundryError):
    """A run's images cannot be trained on; says which file or row, and what to do."""


class ImageFolderError(ImageSetError, InputError):
    """A folder that is to be read is no whole run, or has too few images."""


@dataclass(frozen=True, kw_only=True)
class ImageShard:
    """One download shard that holds kept rows.

    Args:
        tar: Its crops, those of rows that were not kept among them; a clean-up may have removed
            them, and what it left is read.
        ledger: Its rows and whether each was kept.
        num_rows: Kept rows that belong to the set.
        first_row: The first of them, among the shard's kept rows; those before are held out.
    """

    tar: FileEntry
    ledger: FileEntry
    num_rows: int
    first_row: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The kept images of a run, all of one size."""

    store: RunStore
    resolution_px: int
    shards: tuple[ImageShard, ...]

    @property
    def num_rows(self) -> int:
        """Over all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def sha256(self) -> str:
        """Hex, over the digests of tars and ledgers, and which of their kept rows are in it."""
        lines = "".join(
            f"{shard.tar.sha256}  {shard.ledger.sha256}  {shard.first_row}  {shard.num_rows}\n"
            for shard in self.shards
        )
        return hashlib.sha256(f"{self.resolution_px}\n{lines}".encode()).hexdigest()

    def without_first(self, count: int) -> "ImageSet":
        """The set less its first `count` rows, which are held out.

        Raises:
            ImageSetError: nothing would be left.
        """
        if count >= self.num_rows:
            raise ImageFolderError(
                f"{self.store.root}: {self.num_rows} kept image(s), and {count} are to be held "
                "out; lower samples.held_out, or curate more"
            )
        kept = []
        for shard in self.shards:
            taken = min(count, shard.num_rows)
            count -= taken
            if shard.num_rows > taken:
                first, left = shard.first_row + taken, shard.num_rows - taken
                kept.append(replace(shard, first_row=first, num_rows=left))
        return replace(self, shards=tuple(kept))


def open_image_set(path: str, *, storage_options: Mapping[str, Any]) -> ImageSet:
    """Look a run's kept images up in its manifests; no image is read.

    Raises:
        ImageSetError: no curated run is there, it is not complete, kept nothing, or a file of it
            is missing or of another size.
    """
    store = RunStore(path, storage_options)
    steps = read_revision(store).steps
    download, select = steps.get("download"), steps.get("select")
    image = read_run(store).get("config", {}).get("image", {})
    size = image.get("size")
    if download is None or select is None or not isinstance(size, int):
        raise ImageFolderError(
            f"{path}: no curated run with complete download and select steps; give the folder "
            "that curate wrote (the one that holds run.json), and let it finish"
        )
    if image.get("buckets") is not None:
        raise ImageFolderError(
            f"{path}: its pictures are of several sizes (image.buckets), an autoencoder trains on "
            "one; curate the same list with image.size"
        )
    shards: list[ImageShard] = []
    try:
        made = (("download", download.fingerprint), ("select", select.fingerprint))
        each = (Committed(store, *step).manifests(download.num_shards) for step in made)
        kept = ((images, judged) for images, judged in zip(*each, strict=True) if judged.kept)
        look = partial(_shard, store)
        shards += in_order(lambda pair: look(*pair), kept, num_threads=store.num_threads)
    except ShardError as error:
        raise ImageFolderError(f"{path}: {error}") from error
    if not shards:
        raise ImageFolderError(f"{path}: no row was kept; there is nothing to train on")
    return ImageSet(store=store, resolution_px=size, shards=tuple(shards))


def _shard(store: RunStore, images: Manifest, verdicts: Manifest) -> ImageShard:
    tar, ledger = images.file("images"), verdicts.file("ledger")
    if tar is None or ledger is None:
        raise ImageFolderError(f"{store.root}: shard {images.shard_id} kept rows without an image")
    for entry in (_file_of(store, tar), ledger):
        try:
            found = store.size(entry.path)
        except FileNotFoundError:
            raise ImageFolderError(f"{store.told(entry.path)}: is missing") from None
        if found != entry.num_bytes:
            raise ImageFolderError(
                f"{store.told(entry.path)}: has {found} bytes, its manifest says "
                f"{entry.num_bytes}; copy the run again"
            )
    return ImageShard(tar=tar, ledger=ledger, num_rows=verdicts.kept)


class ImageReader:
    """An open shard; any kept row of it in any order. Reads are safe from several threads.

    A remote tar is copied to a file without a name first, and its digest checked.

    Raises:
        ImageSetError: the tar is damaged, lacks a kept row, or a crop has another size.
    """

    def __init__(self, image_set: ImageSet, shard: ImageShard) -> None:
        store = image_set.store
        tar = _file_of(store, shard.tar)
        self._name = f"{store.told(tar.path)}"
        self._size = image_set.resolution_px
        self._keys = _kept_keys(store, shard, resolution_px=self._size)[shard.first_row :]
        self._file = _open(store, tar)
        try:
            self._places = image_places(
                self._file, fault=lambda text: ImageSetError(f"{self._name}: damaged tar: {text}")
            )
        except BaseException:
            self._file.close()
            raise
        missing = [key for key in self._keys if key not in self._places]
        if missing:
            self._file.close()
            raise ImageSetError(
                f"{self._name}: {len(missing)} kept row(s) are not in it, {missing[0]} for one"
            )

    def key(self, row: int) -> str:
        """The key of a row of the set in this shard."""
        return self._keys[row]

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """Its crop, (H, W, 3) uint8 RGB."""
        key = self._keys[row]
        offset, size = self._places[key]
        content = os.pread(self._file.fileno(), size, offset)
        try:
            pixels = decode_crop(content, f"{self._name}: {key}")
        except ShardError as error:
            raise ImageSetError(str(error)) from error
        if pixels.shape != (self._size, self._size, 3):
            raise ImageSetError(
                f"{self._name}: {key}: a crop of {pixels.shape[1]}x{pixels.shape[0]} px in a run "
                f"of {self._size} px"
            )
        return pixels

    def close(self) -> None:
        self._file.close()


def read_first(image_set: ImageSet, count: int) -> npt.NDArray[np.uint8]:
    """The set's first images, at most `count`, as (N, H, W, 3) uint8."""
    found: list[npt.NDArray[np.uint8]] = []
    for shard in image_set.shards:
        if len(found) == count:
            break
        with closing(ImageReader(image_set, shard)) as reader:
            wanted = min(count - len(found), shard.num_rows)
            found += [reader.read(row) for row in range(wanted)]
    return np.stack(found)


def check_tars(image_sets: Sequence[ImageSet], *, rank: int, world_size: int) -> int:
    """Hold this rank's share of the tars against their digests; gives how many of all there are.

    Cost: the reading of every tar once, over all ranks.

    Raises:
        ImageSetError: one is damaged; says which.
    """
    shards = [(one.store, shard.tar) for one in image_sets for shard in one.shards]
    for store, entry in shards[rank::world_size]:
        try:
            with open_checked(store, _file_of(store, entry)):
                pass
        except ShardError as error:
            raise ImageSetError(str(error)) from error
    return len(shards)


def _kept_keys(store: RunStore, shard: ImageShard, *, resolution_px: int) -> list[str]:
    try:
        rows = read_checked(store, shard.ledger, _COLUMNS).to_pylist()
    except ShardError as error:
        raise ImageSetError(str(error)) from error
    kept = [row for row in rows if row["kept"]]
    for row in kept:
        if (row["width"], row["height"]) != (resolution_px, resolution_px):
            raise ImageSetError(
                f"{store.told(shard.ledger.path)}: {row['key']} is {row['width']}x"
                f"{row['height']} px in a run of {resolution_px} px"
            )
    expected = shard.first_row + shard.num_rows
    if len(kept) != expected:
        raise ImageSetError(
            f"{store.told(shard.ledger.path)}: {len(kept)} kept rows, its manifest says {expected}"
        )
    return [row["key"] for row in kept]


def _file_of(store: RunStore, tar: FileEntry) -> FileEntry:
    try:
        found = images_file(store, tar)
    except ShardError as error:
        raise ImageSetError(str(error)) from error
    return tar if found is None else found


def _open(store: RunStore, entry: FileEntry) -> IO[bytes]:
    if store.is_local:
        return Path(store.absolute(entry.path)).open("rb")
    with spool_folder() as scratch:
        local = scratch / "images.tar"
        store.fetch(entry.path, local)
        if sha256_of(local) != entry.sha256:
            raise ImageSetError(
                f"{store.told(entry.path)}: damaged, its sha256 is not its manifest's; copy the "
                "run again"
            )
        return local.open("rb")
