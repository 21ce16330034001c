"""The columns that a step wrote are kept with it."""

from pathlib import Path

import pyarrow as pa

from pipelines.run.schemas import columns_of, read_schemas, record_schema
from pipelines.run.store import RunStore

ONE = pa.schema([("row", pa.int32()), ("embedding", pa.list_(pa.float16(), 4))])
TWO = pa.schema([*ONE, ("faces", pa.float32())])


def record(store: RunStore, schema: pa.Schema, folder: str = "facts/score") -> None:
    record_schema(store, step="score", fingerprint="f0", folder=folder, schema=schema)


def read(store: RunStore, folder: str, fingerprint: str = "f0") -> list[tuple[str, ...]]:
    return read_schemas(store, step="score", fingerprint=fingerprint, folder=folder)


def test_every_schema_of_a_folder_is_kept_once(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    for schema in (ONE, TWO, ONE):
        record(store, schema)
    record(store, ONE, folder="facts/score/rejects")
    assert set(read(store, "facts/score")) == {columns_of(ONE), columns_of(TWO)}
    assert read(store, "facts/score/rejects") == [columns_of(ONE)]
    assert columns_of(ONE)[1] == "embedding: fixed_size_list<item: halffloat>[4]"


def test_a_step_made_before_schemas_were_kept_has_none(tmp_path: Path) -> None:
    store = RunStore(str(tmp_path))
    record(store, ONE)
    assert read(store, "facts/score", fingerprint="f1") == []
