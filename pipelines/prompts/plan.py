"""Make a plan of prompts, or add to it what is new in the list."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.plan import PlanError, is_to_go_on
from pipelines.plan.make import BeforeStore
from pipelines.plan.record import PLAN_PATH
from pipelines.prompts.config import PromptPlanConfig
from pipelines.prompts.images import PlannedImages
from pipelines.prompts.notes import NOTES
from pipelines.prompts.reading import PromptColumns, ScannedPrompts, choose_columns, scan_prompts
from pipelines.prompts.record import (
    PROMPT_FIELDS,
    PROMPT_SHARD_FIELDS,
    PromptPlan,
    changed_files,
    changed_without_growth,
    check_reading,
    load_prompt_plan,
    prompts_file,
    read_prompts,
    shards_path_of,
    store_prompt_plan,
)
from pipelines.prompts.row import PromptRow, parse_prompt
from pipelines.redact import redact_text_column
from pipelines.rules.tombstones import TAKEN_DOWN, masked_key, read_tombstones
from pipelines.run.spool_folder import spool_folder
from pipelines.run.store import RunStore
from pipelines.sources import Source, SourceError
from pipelines.sources.columns import SourceColumn
from sd_core.say import Say


@dataclass(frozen=True, kw_only=True)
class PromptGrowth:
    """What a reading of the list came to."""

    plan: PromptPlan
    new_rows: int = 0
    known: int = 0
    """Rows of the list that the run has already."""


Notes = Callable[[Mapping[str, Any]], Iterable[str]]
"""Of a planned row, the names of `NOTES` that follow from the job's configuration."""


@dataclass(kw_only=True)
class PromptPlanner:
    """Makes the run's plan where there is none, or adds the rows of the list that are new.

    Args:
        num_images: Of rows that do not say how many.
        limit: After how many rows of the list the plan ends; one that ended before goes on.
        one_shard_a_key: Refuse rows that add images to a key of an earlier shard: where the best
            of a key's images are chosen, that choice has been made.
        columns: `prompts.columns`.
        samplers: `prompts.samplers`.
        notes_of: What of a row's settings does nothing.
        before_store: Told of the columns before anything is written; raises to refuse them.
    """

    store: RunStore = field(kw_only=False)
    source: Source = field(kw_only=False)
    config: PromptPlanConfig = field(kw_only=False)
    num_images: int
    say: Say
    limit: int | None = None
    one_shard_a_key: bool = False
    columns: Mapping[str, str | None] = field(default_factory=dict)
    samplers: Mapping[str, str] = field(default_factory=dict)
    notes_of: Notes = lambda row: ()
    before_store: BeforeStore = lambda columns: None
    before: PromptPlan | None = field(init=False, default=None)
    images: PlannedImages = field(init=False)
    shards: list[dict[str, Any]] = field(init=False, default_factory=list)
    known: set[str] = field(init=False, default_factory=set)
    """Digests of the rows that the run had already."""
    num_known: int = field(init=False, default=0)
    notes: Counter[str] = field(init=False, default_factory=Counter)

    @cached_property
    def reading(self) -> Mapping[str, Any]:
        """The options that say what the list's columns mean."""
        asked = {
            "prompt_column": self.source.config.caption_column,
            "columns": dict(self.columns),
            "samplers": dict(self.samplers),
        }
        return {name: value for name, value in asked.items() if value}

    def plan(self, *, grow: bool) -> PromptGrowth:
        """The plan.

        Args:
            grow: Whether a list that changed may add to it.

        Raises:
            PlanError: the list cannot be read, has no rows, or changed and `grow` is not asked for.
            ConfigError: the list is to be read in another way than the run did, or a column is
                absent.
        """
        before = load_prompt_plan(self.store) if self.store.exists(PLAN_PATH) else None
        if before is not None:
            check_reading(before, self.reading, self.store)
        try:
            if before is not None:
                changed = changed_files(before, self.source)
                count = before.num_prompts
                goes_on = is_to_go_on(before.limit, num_rows=count, limit=self.limit)
                if not changed and not goes_on:
                    return PromptGrowth(plan=before)
                if changed and not grow:
                    raise changed_without_growth(before, changed)
            self.before = before
            self.images = PlannedImages(
                one_shard_a_key=self.one_shard_a_key, tombstones=read_tombstones(self.store)
            )
            with spool_folder() as folder:
                return self._make(folder)
        except SourceError as error:
            raise PlanError(str(error)) from error

    def _make(self, folder: Path) -> PromptGrowth:
        """Read the list; its new shards wait in a local folder until all of it is known."""
        if self.before is not None:
            self.shards = self.before.shards.to_pylist()
            for shard_id in range(self.before.num_shards):
                prompts = read_prompts(self.before, self.store, shard_id)
                if self.before.limit is None:  # else they are the list's first
                    self.known.update(prompts["digest"].to_pylist())
                self.images.remember(prompts)
        num_before = len(self.shards)
        scanned = scan_prompts(self.source, before=self.before, say=self.say)
        columns = choose_columns(
            scanned.types, self.reading.get("columns", {}), before=self.before, say=self.say
        )
        for rows in self._shard_rows(scanned, columns):
            self._add_shard(rows, columns.stored, folder)
        if not self.shards:
            raise PlanError(f"{self.source.files[0].uri}: no prompts in it")
        table = pa.Table.from_pylist(self.shards, schema=PROMPT_SHARD_FIELDS)
        plan = PromptPlan(
            num_prompts=sum(shard["num_prompts"] for shard in self.shards),
            num_rows=sum(shard["num_rows"] for shard in self.shards),
            files=scanned.files,
            columns=columns.stored,
            shards_path=shards_path_of(table),
            reading=self.reading,
            shards=table,
            limit=self.limit if self.limit is not None and self.limit < scanned.num_rows else None,
        )
        self.before_store(columns.stored)
        self._say_what_was_found()
        for shard in self.shards[num_before:]:
            self.store.put_file(folder / Path(shard["path"]).name, shard["path"])
        store_prompt_plan(plan, self.store)
        new = sum(shard["num_rows"] for shard in self.shards[num_before:])
        return PromptGrowth(plan=plan, new_rows=new, known=self.num_known)

    def _say_what_was_found(self) -> None:
        images = self.images
        if images.renamed is not None:
            asked, key = images.renamed
            self.say(
                f"{images.num_renamed:,} row(s) repeat a key with other settings and get a suffix "
                f"hashed from them: {asked} is also {key}"
            )
        if images.num_alike:
            self.say(
                f"{images.num_alike:,} row(s) make an image that another row makes too, under "
                "another key: prompt, settings and noise are the same"
            )
        for note, meaning in NOTES.items():
            if self.notes[note]:
                self.say(f"{note}: {self.notes[note]:,} row(s); {meaning}")

    def _shard_rows(
        self, scanned: ScannedPrompts, columns: PromptColumns
    ) -> Iterator[list[dict[str, Any]]]:
        pending: list[dict[str, Any]] = []
        images = 0
        first = 0 if self.before is None else self.before.limit or 0
        for table in scanned.tables(self.source, columns.read, first=first, end=self.limit):
            for row, rest in self._new_rows(table, columns):
                key = self.images.key_of(row)
                is_same = bool(pending) and pending[-1]["prompt_key"] == key
                if images >= self.config.images_per_shard and not is_same:
                    self.images.settle([one["prompt_key"] for one in pending])
                    yield pending
                    pending, images = [], 0
                pending.append(rest | self._settled(row, key, tuple(rest)))
                images += len(pending[-1]["image_indices"])
        if pending:
            yield pending

    def _new_rows(
        self, table: pa.Table, columns: PromptColumns
    ) -> Iterator[tuple[PromptRow, dict[str, Any]]]:
        """The rows that the run does not have, each with the columns that pass through."""
        prompts = redact_text_column(table["caption"]).to_pylist()
        sources = table.select([c.name for c in columns.read]).to_pylist()
        reasons = table["reason"].to_pylist()
        messages = table["error_message"].to_pylist()
        for prompt, source, reason, message in zip(
            prompts, sources, reasons, messages, strict=True
        ):
            row = parse_prompt(
                prompt,
                {name: source[at] for name, at in columns.raw.items()},
                num_images=self.num_images,
                reason=None if reason == "url_missing" else reason,
                error_message=message,
                samplers=self.reading.get("samplers"),
            )
            if row.digest in self.known:
                self.num_known += 1
                continue
            yield row, {column.name: source.get(column.name) for column in columns.stored}

    def _settled(self, row: PromptRow, key: str, rest: Sequence[str]) -> dict[str, Any]:
        """The row as it is stored, with the images that no earlier row has; of one that was taken
        down neither the text nor what else it has, `rest`."""
        taken = self.images.take(row, key)
        if taken.reason == TAKEN_DOWN:
            return {
                **dict.fromkeys(rest),
                "prompt_key": masked_key(key),
                "image_indices": taken.image_indices,
                "reason": TAKEN_DOWN,
                "content": row.content,
                "digest": row.digest,
            }
        settings = {n: v for n, v in row.settings.items() if n not in ("num_images", "image_index")}
        if taken.reason is None:
            self.notes.update([*row.notes, *self.notes_of(settings)])
        return {
            "prompt_key": key,
            "prompt": row.prompt,
            "image_indices": taken.image_indices,
            **settings,
            "reason": taken.reason,
            "error_message": taken.error_message,
            "content": row.content,
            "digest": row.digest,
        }

    def _add_shard(
        self, rows: list[dict[str, Any]], columns: tuple[SourceColumn, ...], folder: Path
    ) -> None:
        fields = [pa.field(column.name, pa.type_for_alias(column.type)) for column in columns]
        schema = pa.schema([*PROMPT_FIELDS, *fields])
        shard_id = len(self.shards)
        table = pa.Table.from_pylist(rows, schema=schema)
        path, content, digest = prompts_file(table, shard_id)
        (folder / Path(path).name).write_bytes(content)
        self.shards.append(
            {
                "shard_id": shard_id,
                "path": path,
                "sha256": digest,
                "num_prompts": len(rows),
                "num_rows": sum(len(row["image_indices"]) for row in rows),
            }
        )
