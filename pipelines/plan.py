"""The plan of a run: fixed shards of the source's rows, and the rows settled before any download."""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.config import Config
from pipelines.duplicates import SETTLED_REASONS, DuplicateFinder
from pipelines.keys import KeyHash, blake2b_64, hash_rows
from pipelines.sources.archives import tar_beside
from pipelines.sources.columns import SourceColumn, TextColumns, name_source_columns, widen
from pipelines.sources.config import SourceError
from pipelines.sources.files import SourceFile
from pipelines.sources.rows import ScannedRange, SourceRange
from pipelines.sources.source import Source
from pipelines.storage import RunStore

PLAN_PATH = "plan/plan.json"
SHARDS_PATH = "plan/shards.parquet"
SCHEMA_VERSION = 1

SHARD_FIELDS = pa.schema(
    [
        pa.field("shard_id", pa.int32(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("start_row", pa.int64(), nullable=False),
        pa.field("num_rows", pa.int32(), nullable=False),
        pa.field("start_byte", pa.int64()),
        pa.field("end_byte", pa.int64()),
        pa.field("num_settled", pa.int32(), nullable=False),
    ]
)


class PlanError(Exception):
    """The plan cannot be made, or no longer fits its source; says which file and what to do."""


class PlanConfig(Config):
    """How the rows are cut into shards."""

    rows_per_shard: int = Field(default=10_000, ge=1, le=1_000_000)
    """A shard never crosses files, so a file's last shard may be smaller."""


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of the source as it was when planned; no secrets.

    Attributes:
        token: A cheap mark of this version of the file; "" where the file system gives none.
    """

    name: str
    uri: str
    sha256: str
    num_bytes: int
    token: str
    num_rows: int
    text_columns: TextColumns


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The shards of a run and what is known of their rows before any download.

    Attributes:
        fingerprint: Changes with the files' bytes and names, the columns and the shard size.
        content_hash: The `source_` column with the image files' hashes, where there is one.
        shards: `SHARD_FIELDS`, one row a shard, in order.
    """

    fingerprint: str
    rows_per_shard: int
    num_rows: int
    files: tuple[PlannedFile, ...]
    columns: tuple[SourceColumn, ...]
    content_hash: str | None
    settled: dict[str, int]
    shards: pa.Table = field(repr=False, compare=False)

    @property
    def num_shards(self) -> int:
        """How many shards there are; their ids are 0 to `num_shards` - 1."""
        return int(self.shards.num_rows)

    def shard(self, shard_id: int) -> SourceRange:
        """Where a shard's rows lie."""
        row = self.shards.slice(shard_id, 1).to_pylist()[0]
        row.pop("num_settled")
        return SourceRange(**row)

    def num_settled(self, shard_id: int) -> int:
        """How many of a shard's rows the plan settled."""
        return int(self.shards["num_settled"][shard_id].as_py())

    def text_columns(self, file: str) -> TextColumns:
        """The URL and caption columns of a file."""
        return next(planned.text_columns for planned in self.files if planned.name == file)


def make_plan(
    source: Source,
    config: PlanConfig,
    *,
    store: RunStore,
    scratch: Path | None = None,
    key_hash: KeyHash = blake2b_64,
    on_file: Callable[[SourceFile], None] | None = None,
) -> Plan:
    """Read the source once, cut it into shards, settle duplicates, and store the plan.

    Args:
        scratch: Where local temporary files go; 32 bytes a row beyond the first million.
        key_hash: For tests of collisions only.
        on_file: Told of each file before it is read.

    Raises:
        PlanError: the source cannot be read, has no rows, or changed while it was read.
    """
    with (
        tempfile.TemporaryDirectory(prefix="plan-", dir=scratch) as folder,
        DuplicateFinder(Path(folder)) as finder,
    ):
        draft = _Draft(rows_per_shard=config.rows_per_shard, finder=finder, key_hash=key_hash)
        try:
            for file in source.files:
                if on_file is not None:
                    on_file(file)
                draft.add_file(source, file)
        except SourceError as error:
            raise PlanError(str(error)) from error
        return _store(draft, source, store)


def load_plan(store: RunStore) -> Plan:
    """The run's stored plan; raises `PlanError` where there is none or it is damaged."""
    try:
        tree = json.loads(store.read_bytes(PLAN_PATH))
        with store.open(SHARDS_PATH) as stream:
            shards = pq.read_table(stream, page_checksum_verification=True)
        if shards.num_rows != tree.pop("num_shards") or shards.schema != SHARD_FIELDS:
            raise ValueError(f"{SHARDS_PATH} does not belong to it")
        if tree.pop("schema_version") != SCHEMA_VERSION:
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
        raise PlanError(f"{store.root}/{PLAN_PATH}: not a plan: {error}") from error


def check_plan_inputs(plan: Plan, source: Source) -> None:
    """Refuse a source that is no longer the one planned; unchanged files are not read again.

    Raises:
        PlanError: names every file that changed, is gone or is new.
    """
    try:
        found = {file.name: file for file in source.files}
    except SourceError as error:
        raise PlanError(str(error)) from error
    planned = {file.name: file for file in plan.files}
    faults = [f"{file.uri}: planned, and gone now" for file in plan.files if file.name not in found]
    faults += [f"{file.uri}: not in the plan" for name, file in found.items() if name not in planned]
    for name in planned.keys() & found.keys():
        fault = _difference(planned[name], found[name])
        if fault is not None:
            faults.append(fault)
    if faults:
        raise PlanError(
            f"the source has changed since the run was planned ({len(faults)} file(s)):\n"
            + "\n".join(f"  - {fault}" for fault in sorted(faults))
            + "\nPut the files back as they were, or give another `output` to plan a new run."
        )


def read_rows(plan: Plan, store: RunStore, source: Source, shard_id: int) -> pa.Table:
    """A shard's rows, with the plan's verdicts among the reasons.

    Columns are those of `pipelines.sources.rows.ROW_FIELDS` and the plan's `source_` columns;
    `url` and `caption` are not redacted.
    """
    where = plan.shard(shard_id)
    rows = source.read_rows(
        where, text_columns=plan.text_columns(where.file), columns=plan.columns
    )
    settled = read_settled(plan, store, shard_id)
    if settled is None:
        return rows
    reasons = np.full(rows.num_rows, None, dtype=object)
    reasons[settled["row"].to_numpy()] = settled["reason"].to_pylist()
    column = pc.coalesce(rows["reason"], pa.array(reasons, pa.string()))
    return rows.set_column(rows.schema.get_field_index("reason"), rows.field("reason"), column)


def read_settled(plan: Plan, store: RunStore, shard_id: int) -> pa.Table | None:
    """The shard's settled rows (`row`, `reason`), or None where it has none."""
    if plan.num_settled(shard_id) == 0:
        return None
    path = settled_path(shard_id)
    try:
        with store.open(path) as stream:
            return pq.read_table(stream, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise PlanError(f"{store.root}/{path}: missing or damaged: {error}") from error


def settled_path(shard_id: int) -> str:
    """Where a shard's settled rows lie in a run."""
    return f"plan/settled/{shard_id:06d}.parquet"


@dataclass(kw_only=True)
class _Draft:
    """A plan being made."""

    rows_per_shard: int
    finder: DuplicateFinder
    key_hash: KeyHash
    files: list[PlannedFile] = field(default_factory=list)
    shards: list[SourceRange] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)

    def add_file(self, source: Source, file: SourceFile) -> None:
        token = _token(file)
        digest = _sha256(file)
        num_rows = 0
        text_columns = TextColumns(url=None, caption=None)
        for scanned in source.scan(file, rows_per_shard=self.rows_per_shard):
            num_rows += self._add_shard(file, scanned)
            text_columns = scanned.text_columns
        if token != _token(file):
            raise PlanError(f"{file.uri}: changed while it was being planned; start again")
        self.files.append(
            PlannedFile(
                name=file.name,
                uri=file.uri,
                sha256=digest,
                num_bytes=file.size(),
                token=token,
                num_rows=num_rows,
                text_columns=text_columns,
            )
        )

    def _add_shard(self, file: SourceFile, scanned: ScannedRange) -> int:
        shard_id = len(self.shards)
        texts = scanned.raw.key_texts(file=file.name, start_row=scanned.start_row)
        self.finder.add(
            hash_rows(texts, key_hash=self.key_hash),
            shard_id=shard_id,
            usable=pc.is_null(scanned.raw.reason).to_numpy(zero_copy_only=False),
        )
        for name, kind in scanned.types.items():
            known = self.types.get(name, "")
            self.types[name] = widen(known, kind) if known and kind else known or kind
        self.shards.append(
            SourceRange(
                shard_id=shard_id,
                file=file.name,
                start_row=scanned.start_row,
                num_rows=len(texts),
                start_byte=scanned.start_byte,
                end_byte=scanned.end_byte,
            )
        )
        return len(texts)

    def columns(self) -> tuple[SourceColumn, ...]:
        return name_source_columns({name: kind or "string" for name, kind in self.types.items()})


def _store(draft: _Draft, source: Source, store: RunStore) -> Plan:
    if not draft.shards:
        raise PlanError(f"{source.files[0].uri}: no rows in any of {len(source.files)} file(s)")
    columns = draft.columns()
    content_hash = _content_hash_column(source, columns)
    settled_counts = np.zeros(len(draft.shards), dtype=np.int32)
    totals = dict.fromkeys(SETTLED_REASONS, 0)
    for records in draft.finder.settled():
        shard_id = int(records["shard_id"][0])
        settled_counts[shard_id] = len(records)
        reasons = [SETTLED_REASONS[code] for code in records["reason"]]
        for reason in SETTLED_REASONS:
            totals[reason] += reasons.count(reason)
        rows = pa.array(records["row"].astype(np.int32))
        _write(store, settled_path(shard_id), pa.table({"row": rows, "reason": reasons}))
    shards = pa.Table.from_pylist(
        [
            {**asdict(shard), "num_settled": int(count)}
            for shard, count in zip(draft.shards, settled_counts, strict=True)
        ],
        schema=SHARD_FIELDS,
    )
    plan = Plan(
        fingerprint=_fingerprint(draft, columns, content_hash),
        rows_per_shard=draft.rows_per_shard,
        num_rows=sum(file.num_rows for file in draft.files),
        files=tuple(draft.files),
        columns=columns,
        content_hash=content_hash,
        settled=totals,
        shards=shards,
    )
    _write(store, SHARDS_PATH, shards)
    store.replace(PLAN_PATH, _to_json(plan))
    return plan


def _content_hash_column(source: Source, columns: Sequence[SourceColumn]) -> str | None:
    asked = source.config.content_hash
    if asked is None:
        return None
    for column in columns:
        if column.input == asked:
            return column.name
    raise PlanError(
        f"source.content_hash is {asked!r}, but the columns are: "
        f"{', '.join(column.input for column in columns) or '(none but URL and caption)'}"
    )


def _fingerprint(
    draft: _Draft, columns: Sequence[SourceColumn], content_hash: str | None
) -> str:
    tree = {
        "schema_version": SCHEMA_VERSION,
        "rows_per_shard": draft.rows_per_shard,
        "files": [
            [file.name, file.sha256, asdict(file.text_columns)] for file in draft.files
        ],
        "columns": [asdict(column) for column in columns],
        "content_hash": content_hash,
    }
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _to_json(plan: Plan) -> bytes:
    tree = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": plan.fingerprint,
        "rows_per_shard": plan.rows_per_shard,
        "num_rows": plan.num_rows,
        "num_shards": plan.num_shards,
        "settled": plan.settled,
        "content_hash": plan.content_hash,
        "columns": [asdict(column) for column in plan.columns],
        "files": [asdict(file) for file in plan.files],
    }
    return (json.dumps(tree, indent=1, ensure_ascii=False) + "\n").encode()


def _write(store: RunStore, path: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    store.replace(path, sink.getvalue())


def _parts(file: SourceFile) -> Iterator[SourceFile]:
    """The stored files that one planned file is: img2dataset's list and its tar."""
    yield file
    if file.format == "img2dataset":
        tar = tar_beside(file)
        if file.filesystem.exists(tar.path):
            yield tar


def _token(file: SourceFile) -> str:
    tokens = [part.token() for part in _parts(file)]
    return "+".join(tokens) if all(tokens) else ""


def _sha256(file: SourceFile) -> str:
    return "+".join(part.sha256() for part in _parts(file))


def _difference(planned: PlannedFile, found: SourceFile) -> str | None:
    if planned.token and planned.token == _token(found):
        return None
    num_bytes = found.size()
    if num_bytes != planned.num_bytes:
        return f"{found.uri}: {planned.num_bytes} bytes when planned, {num_bytes} now"
    digest = _sha256(found)
    if digest != planned.sha256:
        return f"{found.uri}: sha256 {planned.sha256} when planned, {digest} now"
    return None
