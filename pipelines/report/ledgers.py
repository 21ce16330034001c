"""The current ledger of a run, a shard at a time."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.rows.ledger import DUPLICATE_REASONS
from pipelines.run.checked import open_checked
from pipelines.run.on_threads import in_order
from pipelines.run.revision_files import RevisionFiles

_NAME_ANOTHER_ROW = (*DUPLICATE_REASONS, "in_reference_set")


@dataclass(frozen=True)
class Ledgers(RevisionFiles):
    """Reads the ledger of a run whose select step is complete, a shard at a time."""

    @cached_property
    def schema(self) -> pa.Schema:
        """The first shard's."""
        first = next(self.iterate_files("ledger"))
        with self.whole(first.path), open_checked(self.store, first) as stream:
            return pq.read_schema(stream)

    def read(self, columns: Collection[str]) -> Iterator[pa.Table]:
        """These columns of each shard, those that the first has; null where another lacks one."""
        asked = pa.schema([field for field in self.schema if field.name in columns])
        read = partial(self.read_table, columns=asked.names)
        for table in in_order(
            read, self.iterate_files("ledger"), num_threads=self.store.num_threads
        ):
            for field in asked:  # shards that an older version made of the same run
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(table.num_rows, field.type))
            yield table.select(asked.names).cast(asked)


def without_names(rules: pa.ChunkedArray, reasons: pa.ChunkedArray) -> pa.Array:
    """Rules as they are counted: which row a copy copies is left off."""
    names_one = pc.fill_null(pc.is_in(reasons, value_set=pa.array(_NAME_ANOTHER_ROW)), False)
    bare = pc.replace_substring_regex(rules, r"(\s(as|of))?\s\S+$", "")
    return _whole(pc.if_else(names_one, bare, rules))


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column
