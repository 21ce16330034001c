"""Runs of rows whose facts are given: select over them, and the whole ledger."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import validate_config
from pipelines.rows.ledger import DOWNLOAD_FACTS, LEDGER, SCORE_FACTS
from pipelines.run.committed import Committed
from pipelines.run.manifest import SpooledFile, commit_shard
from pipelines.run.store import RunStore
from pipelines.run.tables import read_table, write_table
from pipelines.steps.select import Select, SelectConfig

DOWNLOAD, SCORE = "d" * 16, "5" * 16
Row = dict[str, Any]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def select_config(**tree: Any) -> SelectConfig:
    """A configuration as its YAML would say it."""
    return validate_config(SelectConfig, tree, where="select")


def write_facts(root: Path, rows: Sequence[Row], *, rows_per_shard: int = 4) -> RunStore:
    """Commit download and score of a run; a row's missing facts are null, `reason` included.

    Every row has a key, a URL and bytes of its own unless it says otherwise.
    """
    root.mkdir(parents=True, exist_ok=True)
    store = RunStore(str(root))
    embed_dim = max((len(row.get("embedding") or ()) for row in rows), default=0)
    for shard_id, low in enumerate(range(0, max(1, len(rows)), rows_per_shard)):
        part = [
            {
                "shard_id": shard_id,
                "row": row,
                "key": f"{low + row:016x}",
                "url": f"https://host.example/{low + row}.jpg",
                "status": "success",
                "sha256": sha256(f"picture {low + row}"),
                **given,
            }
            for row, given in enumerate(rows[low : low + rows_per_shard])
        ]
        _commit(store, "download", DOWNLOAD, shard_id, _table(part, DOWNLOAD_FACTS))
        stored = [row for row in part if row.get("reason") is None]
        scores = _table(stored, SCORE_FACTS, embed_dim=embed_dim)
        _commit(store, "score", SCORE, shard_id, scores)
    return store


def cut(
    store: RunStore, config: SelectConfig, *, num_shards: int, fingerprint: str = "c" * 16
) -> pa.Table:
    """Run select; the whole ledger, in which rows and counts have been added up."""
    Select(
        store=store,
        fingerprint=fingerprint,
        config=config,
        num_shards=num_shards,
        images=Committed(store, "download", DOWNLOAD),
        score=Committed(store, "score", SCORE),
        read_rows=lambda shard_id: pa.table({}),
    ).run(lambda manifest: None)
    tables = []
    for manifest in Committed(store, "select", fingerprint).manifests(num_shards):
        table = read_table(store, manifest.files[0].path)
        assert manifest.dropped == Counter(table["reason"].drop_null().to_pylist())
        assert manifest.kept == sum(table["kept"].to_pylist())
        tables.append(table)
    ledger = pa.concat_tables(tables)
    assert ledger.schema.names[: len(LEDGER)] == LEDGER.names
    assert ledger["kept"].to_pylist() == ledger["reason"].is_null().to_pylist()
    return ledger


def ledger_of(root: Path, rows: Sequence[Row], *, rows_per_shard: int = 4, **tree: Any) -> pa.Table:
    """The ledger of rows under a configuration; duplicates are off unless it says otherwise."""
    store = write_facts(root, rows, rows_per_shard=rows_per_shard)
    config = select_config(**{"duplicates": "off", **tree})
    return cut(store, config, num_shards=-(-len(rows) // rows_per_shard))


def reasons(ledger: pa.Table) -> list[str | None]:
    return ledger["reason"].to_pylist()


def kept(ledger: pa.Table) -> list[int]:
    """Which rows are kept, numbered over all shards."""
    return np.flatnonzero(ledger["kept"].to_numpy(zero_copy_only=False)).tolist()


def _table(rows: Sequence[Row], schema: pa.Schema, *, embed_dim: int = 0) -> pa.Table:
    fields = list(schema)
    if schema is DOWNLOAD_FACTS:
        others = sorted({name for row in rows for name in row if name.startswith("source_")})
        fields += [_field(n, rows) for n in others]
        known = {field.name for field in (*SCORE_FACTS, pa.field("embedding", pa.null()))}
        extra = {n for row in rows for n in row} - known - {f.name for f in fields}
        fields += [_field(n, rows) for n in sorted(extra)]
    elif embed_dim:
        fields.append(pa.field("embedding", pa.list_(pa.float16(), embed_dim)))
    arrays = []
    for field in fields:
        values = [row.get(field.name) for row in rows]
        if field.name == "embedding":
            values = [None if v is None else np.asarray(v, np.float16) for v in values]
        arrays.append(pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _field(name: str, rows: Sequence[Row]) -> pa.Field:
    kind = pa.array([row.get(name) for row in rows]).type
    return pa.field(name, pa.string() if pa.types.is_null(kind) else kind)


def _commit(store: RunStore, step: str, fingerprint: str, shard_id: int, table: pa.Table) -> None:
    path = Path(store.root) / "table.parquet"
    write_table(table, path)
    reasons = table["reason"].drop_null().to_pylist() if "reason" in table.column_names else []
    folder = f"facts/{step}"
    commit_shard(
        store,
        step=step,
        fingerprint=fingerprint,
        shard_id=shard_id,
        files=[SpooledFile(folder=folder, path=path, num_rows=table.num_rows)],
        rows_in=table.num_rows,
        kept=table.num_rows - len(reasons),
        dropped=Counter(reasons),
    )
    path.unlink()
