"""Make a plan of prompts, or add to it what is new in the list."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from pipelines.config import Config
from pipelines.ledger import PROMPT_SETTINGS
from pipelines.plan import PlanError
from pipelines.plan.inputs import file_sha256, file_token
from pipelines.prompts.record import (
    PROMPT_FIELDS,
    SHARD_FIELDS,
    PromptFile,
    PromptPlan,
    changed_files,
    load_prompt_plan,
    read_prompts,
    store_prompt_plan,
)
from pipelines.prompts.row import PromptRow, parse_prompt
from pipelines.redact import redact_text_column
from pipelines.sources import Source, SourceError
from pipelines.sources.columns import SourceColumn, TextColumns, name_source_columns, widen
from pipelines.sources.rows import READER, SourceRange
from pipelines.storage import RunStore

_READ_ROWS = 10_000
_RAW_COLUMNS: Final = {"key": "source_key", **{name: f"source_{name}" for name in PROMPT_SETTINGS}}


class PromptPlanConfig(Config):
    """How the images are cut into shards."""

    images_per_shard: int = Field(default=1000, ge=1, le=100_000)
    """A prompt's images are never parted, so a shard may hold a few more."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What a reading of the list came to."""

    plan: PromptPlan
    new_rows: int = 0
    known: int = 0
    """Rows of the list that the run has already."""


def plan_prompts(
    store: RunStore,
    source: Source,
    config: PromptPlanConfig,
    *,
    num_images: int,
    grow: bool,
    say: Callable[[str], None],
    one_shard_a_key: bool = False,
) -> Growth:
    """The run's plan, made where there is none, or grown by the rows of the list that are new.

    Args:
        num_images: Of rows that do not say how many.
        grow: Whether a list that changed may add to the plan.
        one_shard_a_key: Refuse rows that add images to a key of an earlier shard: where the best
            of a key's images are chosen, that choice has been made.

    Raises:
        PlanError: the list cannot be read, has no rows, or changed and `grow` is not asked for.
    """
    before = load_prompt_plan(store) if store.exists("plan/plan.json") else None
    try:
        changed = [] if before is None else changed_files(before, source)
        if before is not None and not changed:
            return Growth(plan=before)
        if before is not None and not grow:
            raise PlanError(
                "the list of prompts has changed since the run was planned:\n"
                + "\n".join(f"  - {line}" for line in changed)
                + "\nGive --grow to make what is new in it, put the files back as they were, or "
                "give another `output`."
            )
        draft = _Draft(store, source, config, num_images=num_images, before=before, say=say)
        draft.one_shard_a_key = one_shard_a_key
        return draft.make()
    except SourceError as error:
        raise PlanError(str(error)) from error


@dataclass
class _Draft:
    """A plan being made, or grown."""

    store: RunStore
    source: Source
    config: PromptPlanConfig
    num_images: int
    before: PromptPlan | None
    say: Callable[[str], None]
    shards: list[dict[str, Any]] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    """Digests of the rows that the run had already."""
    images: dict[str, str] = field(default_factory=dict)
    """Keys of all images, with the digest of what each is made from."""
    num_known: int = 0
    one_shard_a_key: bool = False
    settled_keys: set[str] = field(default_factory=set)
    """Keys with images in shards that are cut, where a key may have but one."""

    def make(self) -> Growth:
        if self.before is not None:
            self.shards = self.before.shards.to_pylist()
            for shard_id in range(self.before.num_shards):
                self._remember(read_prompts(self.before, self.store, shard_id))
        num_before = len(self.shards)
        files, ranges, types = self._scan()
        columns = self._columns(types)
        for rows in self._shard_rows(ranges, columns):
            self._add_shard(rows, columns.stored)
        if not self.shards:
            raise PlanError(f"{self.source.files[0].uri}: no prompts in it")
        table = pa.Table.from_pylist(self.shards, schema=SHARD_FIELDS)
        content = hashlib.sha256("".join(s["sha256"] for s in self.shards).encode()).hexdigest()
        plan = PromptPlan(
            num_prompts=sum(shard["num_prompts"] for shard in self.shards),
            num_rows=sum(shard["num_rows"] for shard in self.shards),
            files=files,
            columns=columns.stored,
            shards_path=f"plan/shards-{content[:16]}.parquet",
            shards=table,
        )
        store_prompt_plan(plan, self.store)
        new = sum(shard["num_rows"] for shard in self.shards[num_before:])
        return Growth(plan=plan, new_rows=new, known=self.num_known)

    def _remember(self, prompts: pa.Table) -> None:
        self.known.update(prompts["digest"].to_pylist())
        accepted = prompts.filter(prompts["reason"].is_null())
        for key, indices, content in zip(
            accepted["prompt_key"].to_pylist(),
            accepted["image_indices"].to_pylist(),
            accepted["content"].to_pylist(),
            strict=True,
        ):
            self.images.update((f"{key}-{index}", content) for index in indices)
        self.settled_keys.update(accepted["prompt_key"].to_pylist() if self.one_shard_a_key else ())

    def _scan(
        self,
    ) -> tuple[tuple[PromptFile, ...], list[tuple[SourceRange, TextColumns]], dict[str, str]]:
        """The files, their parts, and the types of their columns."""
        files, ranges = [], []
        types: dict[str, str] = {}
        notes: Counter[str] = Counter()
        readers = {} if self.before is None else {f.name: f.reader for f in self.before.files}
        for file in self.source.files:
            reader = readers.get(file.name, READER)
            token, digest = file_token(file), file_sha256(file)
            files.append(
                PromptFile(name=file.name, uri=file.uri, sha256=digest, token=token, reader=reader)
            )
            for scanned in self.source.scan(file, rows_per_shard=_READ_ROWS, reader=reader):
                notes.update(scanned.notes)
                where = SourceRange(
                    shard_id=0,  # ours are cut by images, not by rows
                    file=file.name,
                    start_row=scanned.start_row,
                    num_rows=len(scanned.raw.url),
                    start_byte=scanned.start_byte,
                    end_byte=scanned.end_byte,
                    reader=reader,
                )
                ranges.append((where, scanned.text_columns))
                for name, kind in scanned.types.items():
                    known = types.get(name, "")
                    types[name] = widen(known, kind) if known and kind else known or kind
            if file_token(file) != token:
                raise PlanError(f"{file.uri}: changed while it was read; start again")
        for note, count in notes.items():
            self.say(f"prompts: {note} ({count:,})")
        return tuple(files), ranges, types

    def _columns(self, types: Mapping[str, str]) -> "_Columns":
        read = name_source_columns({name: kind or "string" for name, kind in types.items()})
        stored = tuple(c for c in read if c.name not in _RAW_COLUMNS.values())
        if self.before is not None:
            kept = {column.name: column for column in self.before.columns}
            for column in stored:
                if column.name not in kept:
                    self.say(f"the column {column.input} is new in the list and is left out")
            read = tuple(kept.get(column.name, column) for column in read)
            stored = self.before.columns
        return _Columns(read=read, stored=stored)

    def _shard_rows(
        self, ranges: list[tuple[SourceRange, TextColumns]], columns: "_Columns"
    ) -> Iterator[list[dict[str, Any]]]:
        pending: list[dict[str, Any]] = []
        images = 0
        for where, text_columns in ranges:
            table = self.source.read_rows(where, text_columns=text_columns, columns=columns.read)
            for row, rest in self._new_rows(table, columns):
                is_same = bool(pending) and pending[-1]["prompt_key"] == row.key
                if images >= self.config.images_per_shard and not is_same:
                    self.settled_keys.update(one["prompt_key"] for one in pending)
                    yield pending
                    pending, images = [], 0
                pending.append(self._settled(row) | rest)
                images += len(pending[-1]["image_indices"])
        if pending:
            yield pending

    def _new_rows(
        self, table: pa.Table, columns: "_Columns"
    ) -> Iterator[tuple[PromptRow, dict[str, Any]]]:
        """The rows that the run does not have, each with the columns that pass through."""
        prompts = redact_text_column(table["caption"]).to_pylist()
        sources = table.select([c.name for c in columns.read]).to_pylist()
        reasons = table["reason"].to_pylist()
        messages = table["error_message"].to_pylist()
        for prompt, source, reason, message in zip(
            prompts, sources, reasons, messages, strict=True
        ):
            raw = {name: source[at] for name, at in _RAW_COLUMNS.items() if at in source}
            refused = None if reason == "url_missing" else reason
            row = parse_prompt(
                prompt, raw, num_images=self.num_images, reason=refused, error_message=message
            )
            if row.digest in self.known:
                self.num_known += 1
                continue
            yield row, {column.name: source.get(column.name) for column in columns.stored}

    def _settled(self, row: PromptRow) -> dict[str, Any]:
        """The row as it is stored, with the images that no earlier row has."""
        reason, message = row.reason, row.error_message
        indices = list(row.image_indices)
        if reason is None:
            names = [f"{row.key}-{index}" for index in indices]
            if any(self.images.get(name, row.content) != row.content for name in names):
                reason, message = "key_collision", "an earlier row of this key is another one"
            else:
                indices = [
                    i for i, name in zip(indices, names, strict=True) if name not in self.images
                ]
                reason = None if indices else "duplicate_row"
                if indices and self.one_shard_a_key and row.key in self.settled_keys:
                    reason = "key_collision"
                    message = "select.best_of has its choice of this key's images, in one shard"
            if reason is None:
                self.images.update((f"{row.key}-{index}", row.content) for index in indices)
            else:
                indices = [row.image_indices[0]]
        settings = {n: v for n, v in row.settings.items() if n not in ("num_images", "image_index")}
        return {
            "prompt_key": row.key,
            "prompt": row.prompt,
            "image_indices": indices,
            **settings,
            "reason": reason,
            "error_message": message,
            "content": row.content,
            "digest": row.digest,
        }

    def _add_shard(self, rows: list[dict[str, Any]], columns: tuple[SourceColumn, ...]) -> None:
        fields = [pa.field(column.name, pa.type_for_alias(column.type)) for column in columns]
        schema = pa.schema([*PROMPT_FIELDS, *fields])
        sink = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        digest = hashlib.sha256(sink.getvalue()).hexdigest()
        shard_id = len(self.shards)
        path = f"plan/prompts/{shard_id:06d}-{digest[:16]}.parquet"
        self.store.replace(path, sink.getvalue())
        self.shards.append(
            {
                "shard_id": shard_id,
                "path": path,
                "sha256": digest,
                "num_prompts": len(rows),
                "num_rows": sum(len(row["image_indices"]) for row in rows),
            }
        )


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The list's columns as they are read, and those that pass through."""

    read: tuple[SourceColumn, ...]
    stored: tuple[SourceColumn, ...]
