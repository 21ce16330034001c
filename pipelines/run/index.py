"""What readers start from: each folder's `shards.txt` and `index.parquet`."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.run.manifest import Manifest
from pipelines.run.store import RunStore
from pipelines.run.stored_json import read_json
from sd_core.sealed import sha256_of_bytes

Index = dict[str, list[dict[str, Any]]]
"""Folder to the rows of its index, in the order of the shards."""


def write_index(store: RunStore, index: Index) -> dict[str, str]:
    """Write each folder's `shards.txt` and `index.parquet`; gives their sha256 by path."""
    digests = {}
    for folder, rows in index.items():
        lines = "".join(f"{row['path']}\n" for row in rows).encode()
        for name, content in (("shards.txt", lines), ("index.parquet", _index_bytes(rows))):
            store.replace(f"{folder}/{name}", content)
            digests[f"{folder}/{name}"] = sha256_of_bytes(content)
    return digests


def recorded_digests(store: RunStore, folder: str, *, known: Mapping[str, str]) -> dict[str, str]:
    """sha256 by path of what workers recorded beside a step's manifests, and of the commit log.

    Args:
        known: Those of the files that were read or written just now.

    Raises:
        DamagedRecordError: one is damaged.
    """
    names = store.list_files(folder)
    paths = [f"{folder}/{name}" for name in names if not name.removesuffix(".json").isdigit()]
    for path in paths:
        if path.endswith(".json"):
            read_json(store, path)  # damage is told here, and not given a digest
    return {path: known.get(path) or sha256_of_bytes(store.read_bytes(path)) for path in paths}


def index_files(index: Index, manifest: Manifest) -> None:
    """Add a shard's files; those of other folders are left out."""
    for entry in manifest.files:
        folder = entry.path.rpartition("/")[0]
        if folder in index:
            index[folder].append({"shard_id": manifest.shard_id, **entry.tree})


_INDEX_SCHEMA = pa.schema(
    [
        ("shard_id", pa.int32()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_rows", pa.int64()),
    ]
)


def _index_bytes(rows: list[dict[str, Any]]) -> bytes:
    schema = _INDEX_SCHEMA
    if any("bucket_rows" in row for row in rows):
        schema = schema.append(pa.field("bucket_rows", pa.list_(pa.int32())))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, write_page_checksum=True)
    return bytes(sink.getvalue())
