"""A run's tables are held against the columns that it says it wrote."""

import pyarrow as pa

from pipelines.run.schemas import columns_of
from pipelines.verify.columns import check_schema

TODAY = pa.schema([("row", pa.int32()), ("key", pa.string()), ("faces", pa.float32())])
BEFORE = pa.schema([("row", pa.int32()), ("key", pa.string())])
OTHER = pa.schema([("row", pa.int32()), ("key", pa.string()), ("smiles", pa.float32())])


def found(schema: pa.Schema, *recorded: pa.Schema, expected: pa.Schema = TODAY) -> list[str]:
    kept = [columns_of(one) for one in recorded]
    faults = check_schema(schema.empty_table(), expected, where="x", recorded=kept)
    return [f"{fault.found}" for fault in faults]


def test_a_run_that_keeps_no_schema_has_the_columns_of_its_time() -> None:
    assert found(TODAY) == []
    assert found(BEFORE) == ["no column faces: float"]


def test_columns_that_the_run_says_it_wrote_are_right_whatever_is_written_today() -> None:
    assert found(BEFORE, BEFORE) == []
    assert found(OTHER, BEFORE, OTHER) == []
    assert found(OTHER, BEFORE) == ["column smiles: float"]


def test_no_record_makes_up_for_a_column_that_every_run_has() -> None:
    without_key = pa.schema([("row", pa.int32())])
    assert found(without_key, without_key) == ["no column key: string"]
