"""The folders that anybody may open: `ledger/`, `images/`, `metadata/` and `latents/` of a run.

Each holds the files of the current revision under names that stay (`ledger/000012.parquet`), and
nothing else, so that any reader's pattern over a folder gives these rows and no others. The
committed files, named by their hash, lie in `_work/`; what is shown of them is a second link to
the same bytes, which costs nothing. Where a disk or a store has no links, tables are copied and
the larger tars are not. `lists/` names all that is shown, where there are no links by the names
of the committed files.

The order is that of any crash: first a record of what is about to change, then the files, then
the lists, then the record without it; whoever comes next does again what it finds there.
"""

import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.on_threads import do_all
from pipelines.run.record import read_revision
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json, write_json
from pipelines.run.tables import read_parquet, read_table
from pipelines.steps.kinds import shown_folders
from sd_core.sealed import sha256_of_bytes

LISTS_FOLDER: Final = "lists"
FILES_LIST: Final = f"{LISTS_FOLDER}/files.parquet"
RECORD_FILE: Final = "readers.json"
SHOWN: Final = ("ledger", "images", "metadata", "latents")
_COPIED: Final = ("ledger", "metadata")
"""Tables, which are small: shown also where that takes a copy."""
_OURS: Final = re.compile(r"\d{6,}\.(tar|parquet)")
_SCHEMA: Final = pa.schema(
    [
        ("folder", pa.string()),
        ("shard_id", pa.int32()),
        ("path", pa.string()),
        ("committed", pa.string()),
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_rows", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShownFile:
    """A file of the current revision, as readers find it.

    Attributes:
        folder: `ledger`, `images`, `metadata` or `latents`.
        path: Where it is, relative to the run; below `_work/` where it could not be linked.
        committed: The committed file that it is, as its manifest names it.
    """

    folder: str
    shard_id: int
    path: str
    committed: str
    sha256: str
    num_bytes: int
    num_rows: int


def show_revision(store: RunStore) -> None:
    """Bring what readers open to the steps that are complete; the caller holds the lease.

    Costs two operations for each file that changed, and a constant. Nothing is done in a run of an
    earlier version, whose folders hold other files as well. It is done again where another job
    changed the run meanwhile, as when this one slept past its lease.
    """
    while not is_shown(store):
        _show_steps(store)


def _show_steps(store: RunStore) -> None:
    steps = _complete(store)
    before, pending = read_shown(store), _pending(store)
    now = {file.path: file for file in _current(store)}
    there = {path for folder in SHOWN for path in _listed(store, folder)}
    changed = [
        file
        for path, file in now.items()
        if path != store.place(file.committed)  # or it is shown where it lies
        and (path in pending or path not in there or file.sha256 != _sha256(before.get(path)))
    ]
    gone = sorted(there - now.keys())
    touched = [*gone, *(file.path for file in changed)]
    write_json(store, RECORD_FILE, {"pending": sorted(pending.union(touched))})
    do_all(partial(_show, store), changed, num_threads=store.num_threads)
    store.at_top().delete_all(gone)
    _write_lists(store, now.values())
    record = {"steps": steps, "pending": [], "lists": _digests(store)}
    write_json(store, RECORD_FILE, record)


@dataclass(frozen=True, kw_only=True)
class ShownState:
    """How what readers find stands to the run.

    Attributes:
        is_current: Whether it was brought to the present revision, whole.
        changed: Its lists that are no longer as they were written.
    """

    is_current: bool
    changed: Sequence[str]


def shown_state(store: RunStore) -> ShownState:
    """Of a run that is not flat; raises `DamagedRecordError`."""
    record, found = _read_record(store), _digests(store)
    written = record.get("lists", {})
    paths = sorted(written.keys() | found.keys())
    return ShownState(
        is_current=record.get("steps", {}) == _complete(store),
        changed=[path for path in paths if written.get(path) != found.get(path)],
    )


def is_shown(store: RunStore) -> bool:
    """Whether readers find the steps that are complete, by the lists as they were written."""
    if store.is_flat:
        return True
    state = shown_state(store)
    return state.is_current and not state.changed


def read_shown(store: RunStore) -> dict[str, ShownFile]:
    """What is shown, by path; empty where nothing is yet, or the list is damaged."""
    try:
        table = read_parquet(io.BytesIO(store.read_bytes(FILES_LIST)))
        return {row["path"]: ShownFile(**row) for row in table.to_pylist()}
    except (FileNotFoundError, pa.ArrowException, TypeError):
        return {}


def _complete(store: RunStore) -> dict[str, Any]:
    """The steps that are complete, with what tells one result of them from another."""
    steps = read_revision(store).steps
    return {name: [step.fingerprint, step.num_shards] for name, step in steps.items()}


def _current(store: RunStore) -> Iterator[ShownFile]:
    """The files of the steps that are complete."""
    steps = read_revision(store).steps
    for name, folders in shown_folders().items():
        for folder, shown in folders.items() if name in steps else ():
            is_linked = store.has_links or shown in _COPIED
            for row in read_table(store, f"{folder}/index.parquet").to_pylist():
                committed = row.pop("path")
                row.pop("bucket_rows", None)
                name_there = f"{shown}/{row['shard_id']:06d}{PurePosixPath(committed).suffix}"
                path = name_there if is_linked else store.place(committed)
                yield ShownFile(folder=shown, path=path, committed=committed, **row)


def _listed(store: RunStore, folder: str) -> Iterator[str]:
    """The files of a readers' folder that are ours; others are left alone."""
    names = store.at_top().list_files(folder)
    return (f"{folder}/{name}" for name in names if _OURS.fullmatch(name))


def _show(store: RunStore, file: ShownFile) -> None:
    store.show(file.committed, file.path)


def _write_lists(store: RunStore, files: Collection[ShownFile]) -> None:
    for folder in SHOWN:
        # A copy's name stays when its rows change, and `datasets` keeps what it fetched by name.
        places = (
            f.path if store.has_links else store.place(f.committed)
            for f in files
            if f.folder == folder
        )
        lines = [f"{place}\n" for place in places]
        path = f"{LISTS_FOLDER}/{folder}.txt"
        if lines:
            store.replace(path, "".join(lines).encode())
        else:
            store.delete(path)
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([asdict(file) for file in files], schema=_SCHEMA)
    pq.write_table(table, sink, write_page_checksum=True)
    store.replace(FILES_LIST, bytes(sink.getvalue()))


def _digests(store: RunStore) -> dict[str, str]:
    paths = [f"{LISTS_FOLDER}/{name}" for name in store.list_files(LISTS_FOLDER)]
    return {path: sha256_of_bytes(store.read_bytes(path)) for path in paths}


def _sha256(file: ShownFile | None) -> str | None:
    return None if file is None else file.sha256


def _pending(store: RunStore) -> set[str]:
    return set(_read_record(store).get("pending", ()))


def _read_record(store: RunStore) -> dict[str, Any]:
    try:
        return read_json(store, RECORD_FILE)
    except FileNotFoundError:
        return {}
