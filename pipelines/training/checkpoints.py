"""Checkpoints of a training on its output: whole or not there, the last few kept."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.run.store import RunStore
from sd_core.model.weights import digest_file
from sd_core.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    read_checkpoint,
    write_checkpoint,
)

_FOLDER = "checkpoints"
_CURRENT = f"{_FOLDER}/current.json"


def publish_checkpoint(store: RunStore, checkpoint: Checkpoint, *, keep: int) -> None:
    """Store a checkpoint, name it last, then remove all but the newest `keep`.

    A crash at any point leaves the earlier checkpoint current and whole.
    """
    entries = _entries(store)
    name = f"step-{checkpoint.step:08d}"
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        write_checkpoint(checkpoint, Path(scratch))
        files = put_folder(store, Path(scratch), f"{_FOLDER}/{name}")
    entries = [entry for entry in entries if entry["name"] != name]
    entries.append({"name": name, "step": checkpoint.step, "files": files})
    kept = entries[-keep:]
    store.replace(_CURRENT, (json.dumps({"checkpoints": kept}, indent=1) + "\n").encode())
    for entry in entries[:-keep]:
        _remove(store, f"{_FOLDER}/{entry['name']}", entry["files"])


def load_newest(store: RunStore) -> Checkpoint | None:
    """The newest checkpoint, its files held against their digests; None where there is none.

    Raises:
        CheckpointError: it is damaged; says which file.
    """
    entries = _entries(store)
    if not entries:
        return None
    newest = entries[-1]
    with _fetched(store, f"{_FOLDER}/{newest['name']}", newest["files"]) as folder:
        return read_checkpoint(folder)


def put_folder(store: RunStore, local: Path, target: str) -> dict[str, str]:
    """Copy a local folder into the run; gives each file's sha256 by relative path."""
    digests = {}
    for path in sorted(path for path in local.rglob("*") if path.is_file()):
        name = path.relative_to(local).as_posix()
        store.put_file(path, f"{target}/{name}")
        digests[name] = digest_file(path)
    return digests


@contextmanager
def _fetched(store: RunStore, source: str, files: dict[str, str]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
        for name, sha256 in files.items():
            local = Path(scratch) / name
            try:
                store.fetch(f"{source}/{name}", local)
            except FileNotFoundError:
                raise CheckpointError(f"{store.root}/{source}/{name}: is missing") from None
            if digest_file(local) != sha256:
                raise CheckpointError(
                    f"{store.root}/{source}/{name}: damaged, its sha256 is not the recorded one; "
                    f"take it out of {_CURRENT} to go on from the one before"
                )
        yield Path(scratch)


def _entries(store: RunStore) -> list[dict[str, Any]]:
    try:
        tree = json.loads(store.read_bytes(_CURRENT))
    except FileNotFoundError:
        return []
    found: list[dict[str, Any]] = tree["checkpoints"]
    return found


def _remove(store: RunStore, folder: str, files: dict[str, str]) -> None:
    for name in files:
        store.delete(f"{folder}/{name}")
    if store.is_local:
        shutil.rmtree(store.absolute(folder), ignore_errors=True)
