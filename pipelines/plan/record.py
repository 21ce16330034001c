"""What a plan is, how it is stored in a run, and a shard's rows by it."""

import hashlib
import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.run.store import RunStore
from pipelines.run.tables import read_parquet, table_bytes, with_column
from pipelines.sources.columns import SourceColumn, TextColumns
from pipelines.sources.rows import EARLIER_READER, SourceRange
from pipelines.sources.source import Source
from sd_core.errors import InputError
from sd_core.sealed import SealError, seal, sha256_of_bytes, unseal

PLAN_PATH = "plan/plan.json"
SHARDS_PATH = "plan/shards.parquet"
PLAN_VERSION = 1

SHARD_FIELDS = pa.schema(
    [
        pa.field("shard_id", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("start_row", pa.int64(), nullable=False),
        pa.field("num_rows", pa.int32(), nullable=False),
        pa.field("start_byte", pa.int64()),
        pa.field("end_byte", pa.int64()),
        pa.field("num_settled", pa.int32(), nullable=False),
        pa.field("mark", pa.string()),
        pa.field("settled_sha256", pa.string()),
    ]
)
"""Earlier plans lack the last ones."""


class PlanError(InputError):
    """The plan cannot be made, or no longer fits its source; says which file and what to do."""


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of the source as it was when planned; no secrets.

    Attributes:
        token: A cheap mark of this version of the file; "" where the file system gives none.
        reader: Which version of the readers told its rows apart; plans of before it say nothing.
        max_cell_bytes: Larger cells are not read; None where there was none.
    """

    name: str
    uri: str
    sha256: str
    num_bytes: int
    token: str
    num_rows: int
    text_columns: TextColumns
    reader: int = EARLIER_READER
    max_cell_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The shards of a run and what is known of their rows before any download.

    Attributes:
        fingerprint: Changes with the files' bytes and names, the columns and the shard size.
        options: The source's options that decide what a row is, as they were set.
        content_hash: The `source_` column with the image files' hashes, where there is one.
        shards: `SHARD_FIELDS`, one row a shard, in order.
        notes: What the list holds and no row carries, or not as it is; of how many values.
        limit: After how many rows the plan ends, where the list goes on (`--limit`).
        uncut_rows: Of the last shard, see `SourceRange`.
    """

    fingerprint: str
    rows_per_shard: int
    num_rows: int
    files: tuple[PlannedFile, ...]
    columns: tuple[SourceColumn, ...]
    options: dict[str, str | int | None]
    content_hash: str | None
    settled: dict[str, int]
    shards: pa.Table = field(repr=False, compare=False)
    shards_path: str = SHARDS_PATH
    """Where `shards` lies in the run; of a plan that grew, under a name of its own."""
    notes: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    uncut_rows: int | None = None

    @property
    def num_shards(self) -> int:
        """How many shards there are; their ids are 0 to `num_shards` - 1."""
        return int(self.shards.num_rows)

    def shard(self, shard_id: int) -> SourceRange:
        """Where a shard's rows lie."""
        row = self.shards.slice(shard_id, 1).to_pylist()[0]
        del row["num_settled"], row["settled_sha256"]
        file = self._file(row["file"])
        is_last = shard_id == self.num_shards - 1
        return SourceRange(
            **row,
            reader=file.reader,
            max_cell_bytes=file.max_cell_bytes,
            uncut_rows=self.uncut_rows if is_last else None,
        )

    def num_rows_of(self, shard_id: int) -> int:
        return int(self.shards["num_rows"][shard_id].as_py())

    def num_settled(self, shard_id: int) -> int:
        """How many of a shard's rows the plan settled."""
        return int(self.shards["num_settled"][shard_id].as_py())

    def text_columns(self, file: str) -> TextColumns:
        """The URL and caption columns of a file."""
        return self._file(file).text_columns

    def _file(self, name: str) -> PlannedFile:
        return next(planned for planned in self.files if planned.name == name)


def store_plan(plan: Plan, store: RunStore) -> None:
    """Store the shards, then `plan.json`, which makes the plan one."""
    digest = put_table(store, plan.shards_path, plan.shards)
    store.replace(PLAN_PATH, seal(_to_json(plan, shards_sha256=digest)))


@dataclass(frozen=True, kw_only=True)
class PlanSize:
    """How large a plan is, of rows or of prompts; `limit` as in `Plan`."""

    rows: int
    shards: int
    limit: int | None = None


def read_plan_size(store: RunStore) -> PlanSize | None:
    """What `plan.json` says of itself; None where there is none yet. Raises `PlanError`."""
    try:
        tree = unseal(store.read_bytes(PLAN_PATH))
        rows, shards = int(tree["num_rows"]), int(tree["num_shards"])
        return PlanSize(rows=rows, shards=shards, limit=tree.get("limit"))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise PlanError(f"{store.root}/{PLAN_PATH}: not a plan: {error}") from error


def load_plan(store: RunStore) -> Plan:
    """The run's stored plan; raises `PlanError` where there is none or it is damaged."""
    try:
        tree = unseal(store.read_bytes(PLAN_PATH))
        shards_path = tree.setdefault("shards_path", SHARDS_PATH)
        shards = read_planned(store, shards_path, tree.pop("shards_sha256", None))
        for name in SHARD_FIELDS.names[shards.num_columns :]:  # of before there were any
            none = pa.nulls(shards.num_rows, pa.string())
            shards = shards.append_column(SHARD_FIELDS.field(name), none)
        if shards.num_rows != tree.pop("num_shards") or shards.schema != SHARD_FIELDS:
            raise ValueError(f"{shards_path} does not belong to it")
        if tree.pop("schema_version") != PLAN_VERSION:
            raise ValueError("it was written by another version of this program")
        tree["files"] = tuple(
            PlannedFile(**{**file, "text_columns": TextColumns(**file["text_columns"])})
            for file in tree["files"]
        )
        tree["columns"] = tuple(SourceColumn(**column) for column in tree["columns"])
        return Plan(**tree, shards=shards)
    except FileNotFoundError as error:
        raise PlanError(f"{store.root}: no plan yet: {PLAN_PATH} is missing") from error
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise PlanError(f"{store.told(PLAN_PATH)}: not a plan: {error}") from error


def read_rows(plan: Plan, store: RunStore, source: Source, shard_id: int) -> pa.Table:
    """A shard's rows, with the plan's verdicts among the reasons.

    Columns are those of `pipelines.sources.rows.ROW_FIELDS` and the plan's `source_` columns;
    `url` and `caption` are not redacted.
    """
    where = plan.shard(shard_id)
    rows = source.read_rows(where, text_columns=plan.text_columns(where.file), columns=plan.columns)
    settled = read_settled(plan, store, shard_id)
    if settled is None:
        return rows
    reasons = np.full(rows.num_rows, None, dtype=object)
    reasons[settled["row"].to_numpy()] = settled["reason"].to_pylist()
    column = pc.coalesce(rows["reason"], pa.array(reasons, pa.string()))
    return with_column(rows, "reason", column)


def read_settled(plan: Plan, store: RunStore, shard_id: int) -> pa.Table | None:
    """The shard's settled rows (`row`, `reason`), or None where it has none."""
    if plan.num_settled(shard_id) == 0:
        return None
    path = settled_path(shard_id)
    try:
        return read_planned(store, path, plan.shards["settled_sha256"][shard_id].as_py())
    except (OSError, ValueError, pa.ArrowException) as error:
        raise PlanError(f"{store.told(path)}: missing or damaged: {error}") from error


def grown_shards_path(shards: pa.Table) -> str:
    """Where the shards of a plan that grew lie: a crash leaves the old plan as it was."""
    text = json.dumps(shards.to_pylist())
    return f"plan/shards-{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def settled_path(shard_id: int) -> str:
    """Where a shard's settled rows lie in a run."""
    return f"plan/settled/{shard_id:06d}.parquet"


def put_table(store: RunStore, path: str, table: pa.Table) -> str:
    """Write a small Parquet file of the plan; gives its sha256."""
    content = table_bytes(table)
    store.replace(path, content)
    return sha256_of_bytes(content)


def read_planned(store: RunStore, path: str, sha256: str | None) -> pa.Table:
    """A small Parquet file of the plan, held against its digest.

    Args:
        sha256: None in plans made before there were digests.

    Raises:
        FileNotFoundError: there is none.
        SealError, OSError, pa.ArrowException: it is damaged.
    """
    content = store.read_bytes(path)
    if sha256 is not None and sha256_of_bytes(content) != sha256:
        raise SealError(f"{store.place(path)}: damaged: its sha256 is not the plan's")
    return read_parquet(io.BytesIO(content))


def _to_json(plan: Plan, *, shards_sha256: str) -> str:
    tree = {
        "schema_version": PLAN_VERSION,
        "fingerprint": plan.fingerprint,
        "rows_per_shard": plan.rows_per_shard,
        "num_rows": plan.num_rows,
        "num_shards": plan.num_shards,
        "shards_sha256": shards_sha256,
        **({} if plan.shards_path == SHARDS_PATH else {"shards_path": plan.shards_path}),
        "settled": plan.settled,
        "options": plan.options,
        "content_hash": plan.content_hash,
        "notes": plan.notes,
        **({} if plan.limit is None else {"limit": plan.limit, "uncut_rows": plan.uncut_rows}),
        "columns": [asdict(column) for column in plan.columns],
        "files": [_file_tree(file) for file in plan.files],
    }
    return json.dumps(tree, indent=1, ensure_ascii=False)


def _file_tree(file: PlannedFile) -> dict[str, Any]:
    tree = asdict(file)
    if file.max_cell_bytes is None:
        del tree["max_cell_bytes"]
    return tree
