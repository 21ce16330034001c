"""Checkpoints of a training on its output: whole or not there, the last few kept.

    checkpoints/step-00000016/files.json   what belongs to it, with digests
    checkpoints/step-00000016/...          the state, file by file, state.json last
    checkpoints/current.json               the same of all that are kept, and of which step the
                                           result was published

So each can be judged by itself, and what is damaged or cut off is passed over for the one before.
Those of 0.2.0 have no files.json; they stand in current.json alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from sd_core.errors import is_environment
from sd_core.model.weights import digest_file
from sd_core.say import Say
from sd_core.sealed import seal_tree, unseal
from sd_core.training.checkpoint import (
    STATE_FILE,
    Checkpoint,
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)

CHECKPOINTS_FOLDER = "checkpoints"
_CURRENT = f"{CHECKPOINTS_FOLDER}/current.json"
_FILES = "files.json"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A checkpoint as the records have it; `files` is each one's sha256."""

    name: str
    step: int
    files: Mapping[str, str]


def publish_checkpoint(store: RunStore, checkpoint: Checkpoint, *, keep: int) -> None:
    """Store a checkpoint, name it last, then remove all but the newest `keep`.

    A crash at any point leaves the earlier checkpoint whole.
    """
    name = f"step-{checkpoint.step:08d}"
    with spool_folder() as scratch:
        local = scratch / name
        local.mkdir()
        write_checkpoint(checkpoint, local)
        entry = _Entry(name=name, step=checkpoint.step, files=digest_files(local))
        store.replace(f"{_folder(name)}/{_FILES}", _record(entry))
        put_folder(store, local, _folder(name))
    earlier = [one for one in _entries(store).values() if one.step < checkpoint.step]
    kept = [*earlier, entry][-keep:]
    store.replace(_CURRENT, _record(*kept))
    for old in set(_names(store)) - {one.name for one in kept}:
        store.delete_folder(_folder(old))


def note_result(store: RunStore, step: int) -> None:
    """Write into the list of checkpoints that a result is published, so that one that is lost is
    missed; a damaged list is left as it is."""
    entries = _read(store, _CURRENT, lambda line: None)
    record = _record(*entries, published_step=step)
    if entries and record != store.read_bytes(_CURRENT):
        store.replace(_CURRENT, record)


def load_newest(store: RunStore, *, say: Say) -> Checkpoint | None:
    """The newest whole checkpoint; what is passed over for it is said by name.

    Returns:
        None where none was ever finished.

    Raises:
        CheckpointError: there are some, and none of them is whole.
    """
    entries = _entries(store, say=say)
    names = sorted({*_names(store), *entries}, reverse=True)
    for name in names:
        try:
            return _load(store, name, entries.get(name))
        except CheckpointError as error:
            if is_environment(error):  # a disk that cannot be read now is no damage
                raise
            say(f"passed over: {error}")
    last_files = [_CURRENT, *(f"{_folder(name)}/{STATE_FILE}" for name in names)]
    if any(store.exists(path) for path in last_files):
        raise CheckpointError(
            f"{store.root}/{CHECKPOINTS_FOLDER}: no checkpoint is whole; put one back, or remove "
            "the folder to train from the first step"
        )
    return None


def newest_step(store: RunStore) -> int:
    """Of the newest checkpoint, whole or not; 0 where none was ever finished."""
    return max((entry.step for entry in _entries(store).values()), default=0)


def digest_files(local: Path) -> dict[str, str]:
    """Each file's sha256 by its path in a local folder, in order."""
    files = sorted(path for path in local.rglob("*") if path.is_file())
    return {path.relative_to(local).as_posix(): digest_file(path) for path in files}


def put_folder(store: RunStore, local: Path, target: str) -> None:
    """Copy a local folder's files into the run, in the order of `digest_files`."""
    for path in sorted(path for path in local.rglob("*") if path.is_file()):
        store.put_file(path, f"{target}/{path.relative_to(local).as_posix()}")


def _load(store: RunStore, name: str, entry: _Entry | None) -> Checkpoint:
    where = f"{store.root}/{_folder(name)}"
    if entry is None:
        raise CheckpointError(f"{where}: {_FILES} is missing or damaged")
    with spool_folder() as scratch:
        for file, sha256 in entry.files.items():
            try:
                store.fetch(f"{_folder(name)}/{file}", scratch / file)
            except FileNotFoundError:
                raise CheckpointError(f"{where}/{file}: is missing") from None
            if digest_file(scratch / file) != sha256:
                raise CheckpointError(
                    f"{where}/{file}: damaged, its sha256 is not the recorded one"
                )
        return read_checkpoint(scratch)


def _folder(name: str) -> str:
    return f"{CHECKPOINTS_FOLDER}/{name}"


def _names(store: RunStore) -> list[str]:
    return [one for one in store.list_folders(CHECKPOINTS_FOLDER) if one.startswith("step-")]


def _entries(store: RunStore, *, say: Say = lambda line: None) -> dict[str, _Entry]:
    """The checkpoints that say what is in them, by name, in the order of their steps."""
    paths = [_CURRENT, *(f"{_folder(name)}/{_FILES}" for name in _names(store))]
    found = {one.name: one for path in paths for one in _read(store, path, say)}
    return dict(sorted(found.items()))


def _record(*entries: _Entry, **noted: int) -> bytes:
    return seal_tree({"checkpoints": [asdict(one) for one in entries], **noted})


def _read(store: RunStore, path: str, say: Say) -> list[_Entry]:
    """What a record names; nothing where it is missing or damaged."""
    try:
        return [_Entry(**one) for one in unseal(store.read_bytes(path))["checkpoints"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        say(f"passed over: {store.root}/{path}: {error}")
        return []
