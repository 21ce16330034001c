"""The columns that a step wrote, kept beside its manifests: a run is judged by those of its time.

Shards of one fingerprint may have been written by two versions of the program, so that a folder
can have more than one record.
"""

import hashlib
import json
from collections.abc import Iterable

import pyarrow as pa

from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json
from sd_core.sealed import seal_tree

Columns = tuple[str, ...]
"""`name: type` of each column, in order, as Arrow writes types."""


def columns_of(schema: Iterable[pa.Field]) -> Columns:
    """The fields as they are recorded."""
    return tuple(f"{field.name}: {field.type}" for field in schema)


def record_schema(
    store: RunStore, *, step: str, fingerprint: str, folder: str, schema: Iterable[pa.Field]
) -> None:
    """Keep what a step's tables in `folder` look like; the same again changes nothing."""
    columns = columns_of(schema)
    digest = hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:8]
    path = f"{_prefix(step, fingerprint, folder)}{digest}.json"
    if path not in store.recorded:
        store.create_exclusive(path, seal_tree({"folder": folder, "columns": columns}))
        store.recorded.add(path)


def read_schemas(store: RunStore, *, step: str, fingerprint: str, folder: str) -> list[Columns]:
    """Every record of a folder; none of a run that was made before they were kept."""
    prefix = _prefix(step, fingerprint, folder)
    parent, _, start = prefix.rpartition("/")
    names = sorted(name for name in store.list_files(parent) if name.startswith(start))
    return [tuple(read_json(store, f"{parent}/{name}")["columns"]) for name in names]


def _prefix(step: str, fingerprint: str, folder: str) -> str:
    return f"manifests/{step}/{fingerprint}/schema-{folder.replace('/', '.')}-"
