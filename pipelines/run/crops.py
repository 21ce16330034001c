"""The crops that a clean-up removed, and the tars in which those of the kept rows still lie.

A run stores the picture of every row that it decoded, and publish those of the kept ones once
more. `clean --crops` removes the first; its record names what publish had committed then, whose
tars stand for the crops from then on, whatever the run is cut to later.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import IO, Final

from pipelines.run.checked import MissingFileError, open_checked
from pipelines.run.manifest import FileEntry, ShardError, read_manifest
from pipelines.run.store import RunStore
from pipelines.run.stored_json import damaged_record, read_json, write_json

CROPS_FILE: Final = "crops.json"
KEPT_FOLDER: Final = "kept"


@dataclass(frozen=True, kw_only=True)
class RemovedCrops:
    """What a clean-up removed of a run's crops; some files of it may be there still.

    Attributes:
        publish: Fingerprint of the publish step whose tars hold the pictures that are left.
        pictures: Of dropped rows, which are in none of them.
        num_bytes: About as much as these took.
    """

    publish: str
    pictures: int
    num_bytes: int

    @property
    def told(self) -> str:
        """How many there were."""
        return f"{self.pictures:,} pictures of dropped rows, about {self.num_bytes:,} bytes"


def read_removed(store: RunStore) -> RemovedCrops | None:
    """The run's; None where it has its crops. Raises `DamagedRecordError`."""
    try:
        return RemovedCrops(**read_json(store, CROPS_FILE))
    except FileNotFoundError:
        return None
    except TypeError as error:
        raise damaged_record(store, CROPS_FILE, str(error)) from error


def write_removed(store: RunStore, removed: RemovedCrops) -> None:
    """Make it the run's."""
    write_json(store, CROPS_FILE, asdict(removed))


def images_file(store: RunStore, crops: FileEntry | None) -> FileEntry | None:
    """The tar in which a shard's pictures lie: that of its crops, or where a clean-up removed it,
    of those that it left; None where there is neither.

    Args:
        crops: The file in `images` that the shard's manifest names. One that is lost, and was not
            removed by a clean-up, is given back: whoever opens it is told.

    Raises:
        ShardError: what the clean-up left is lost.
    """
    if crops is None:
        return None
    try:
        store.size(crops.path)
    except FileNotFoundError:
        removed = read_removed(store)
        return crops if removed is None else _left(store, crops, removed)
    return crops


@contextmanager
def open_images(
    store: RunStore, crops: FileEntry | None
) -> Iterator[tuple[FileEntry, IO[bytes]] | None]:
    """What `images_file` gives, opened and held against its digest: one request where the crops
    are there.

    Raises:
        ShardError: it is missing or damaged.
    """
    with ExitStack() as stack:
        entry = crops
        try:
            stream = None if crops is None else stack.enter_context(open_checked(store, crops))
        except MissingFileError:
            if (entry := images_file(store, crops)) == crops:
                raise
            stream = None if entry is None else stack.enter_context(open_checked(store, entry))
        yield None if entry is None or stream is None else (entry, stream)


def _left(store: RunStore, crops: FileEntry, removed: RemovedCrops) -> FileEntry | None:
    shard_id = int(PurePosixPath(crops.path).name.partition("-")[0])
    manifest = read_manifest(store, "publish", removed.publish, shard_id)
    if manifest is None:
        raise ShardError(
            f"{store.told(crops.path)}: removed by a clean-up, and the manifest of the kept "
            "pictures is missing; verify the run"
        )
    return manifest.file(KEPT_FOLDER)
