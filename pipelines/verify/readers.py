"""What readers open: the files of this revision under their names, and nothing beside them."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path

from pipelines.revisions.readers import (
    FILES_LIST,
    RECORD_FILE,
    SHOWN,
    ShownFile,
    read_shown,
    shown_state,
)
from pipelines.run.store import RunStore
from pipelines.run.stored_json import DamagedRecordError
from pipelines.steps.kinds import shown_folders
from pipelines.verify.fault import Fault, Note, ShownFault
from pipelines.verify.files import check_digest
from pipelines.verify.index import StepTotals

_AGAIN = "remove lists/ and run the job again"


def check_readers(
    store: RunStore, totals: Mapping[str, StepTotals], *, deep: bool
) -> Iterator[Fault | Note]:
    """The lists name each committed file of the folders that are shown, and it lies there."""
    if store.is_flat:
        return
    record = store.place(RECORD_FILE)
    try:
        state = shown_state(store)
    except DamagedRecordError as error:
        yield Fault(record, error.found, "the record of what readers are shown")
        return
    if store.exists(FILES_LIST) and not store.exists(RECORD_FILE):  # which is written first
        yield Fault(record, "missing", "the record of what readers are shown; run the job")
        return
    if not state.is_current:
        yield Note("lists/", "readers find an earlier revision: a job goes on, or was killed")
        return
    if state.changed:
        yield from (ShownFault(path, "changed, or missing", _AGAIN) for path in state.changed)
        return
    shown = read_shown(store)
    yield from _check_lists(shown, totals)
    for folder in SHOWN:
        expected = {path: file for path, file in shown.items() if path.startswith(f"{folder}/")}
        yield from _check_folder(store, folder, expected, deep=deep)


def _check_lists(
    shown: Mapping[str, ShownFile], totals: Mapping[str, StepTotals]
) -> Iterator[Fault]:
    found = {(file.shard_id, file.committed, file.sha256): file for file in shown.values()}
    expected = {
        row[:3]
        for name, step in totals.items()
        if step.is_whole
        for folder in shown_folders()[name]
        for row in step.files.get(folder, [])
    }
    for key in sorted(expected - found.keys()):
        yield Fault("lists/files.parquet", f"does not list {key[1]}", "every file of this revision")
    if all(step.is_whole for step in totals.values()):
        for key in sorted(found.keys() - expected):
            yield Fault("lists/files.parquet", f"lists {key[1]}", "only files of this revision")


def _check_folder(
    store: RunStore, folder: str, expected: Mapping[str, ShownFile], *, deep: bool
) -> Iterator[Fault]:
    top = store.at_top()
    sizes = top.list_sizes(folder)
    there = {f"{folder}/{name}" for name in (*sizes, *top.list_folders(folder))}
    for path in sorted(there - expected.keys()):
        yield ShownFault(path, "a file or folder", "nothing: readers take all of it for the data")
    for path in sorted(expected.keys() - there):
        yield ShownFault(path, "missing", f"{expected[path].num_bytes} bytes; {_AGAIN}")
    for path in sorted(expected.keys() & there):
        file = expected[path]
        if deep and not _is_link(store, file):
            yield from (ShownFault(*astuple(f)) for f in check_digest(top, path, file.sha256))
        elif (size := sizes.get(path.rpartition("/")[2])) != file.num_bytes:
            yield ShownFault(path, f"{size} bytes", f"{file.num_bytes} bytes; {_AGAIN}")


def _is_link(store: RunStore, file: ShownFile) -> bool:
    """Whether it is the committed file itself, whose bytes are checked there."""
    if not store.is_local:
        return False
    committed = Path(store.absolute(file.committed))
    return committed.exists() and committed.samefile(store.at_top().absolute(file.path))
