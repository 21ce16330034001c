"""The curate job: committed steps over one list, pipelined shard by shard."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Unpack

from pipelines.plan import (
    Plan,
    PlanError,
    check_plan_inputs,
    go_on,
    grow_plan,
    is_to_go_on,
    load_plan,
    make_plan,
)
from pipelines.revisions.begin import (
    FETCH_OPTIONS,
    Retry,
    begin_growth,
    begin_more,
    plan_retry,
    planned_before,
)
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.amendments import Amendments
from pipelines.run.record import read_run
from pipelines.run.recorded_options import MayChange
from pipelines.run.store import RunStore
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn
from pipelines.workflows.asked_job import Asked, AskedJob
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from pipelines.workflows.job import JobResult, recut_steps
from sd_core.say import Say


def curate(config: CurateConfig, *, say: Say, **asked: Unpack[Asked]) -> JobResult:
    """Run the asked steps of a curate job; those that are complete already are left alone.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    store = RunStore(config.output, config.storage_options)
    return Curation(config, store, **asked, say=say).run()


class Curation(AskedJob[CurateConfig, Plan, CurateSteps]):
    """A curate job as a command asks for it."""

    name = "curate"
    downloads = True

    @cached_property
    def source(self) -> Source:
        return Source(self.config.source)

    def load(self) -> Plan:
        return load_plan(self.store)

    def steps_of(self, plan: Plan, amendments: Amendments | None) -> CurateSteps:
        return CurateSteps(self.config, self.store, self.source, plan, amendments=amendments)

    def gets_more(self, before: Plan) -> bool:
        return is_to_go_on(before.limit, num_rows=before.num_rows, limit=self.limit)

    def plan(self) -> Plan:
        plan = self._planned()
        for note, count in plan.notes.items():
            self.say(f"source: {note} ({count:,})")
        first = "" if plan.limit is None else "the first "
        settled = sum(plan.settled.values())
        self.say(
            f"plan: {first}{plan.num_rows:,} rows in {plan.num_shards:,} shards, "
            f"{settled:,} settled already"
        )
        return plan

    def _planned(self) -> Plan:
        check = partial(_check_columns, self.config)
        limit = self.limit
        if not self.is_planned:
            self.say(f"planning: {len(self.source.files)} file(s)")
            options = self.config.plan
            return make_plan(
                self.source, options, store=self.store, limit=limit, before_store=check
            )
        before = self.load()
        if not self.grows():
            return before
        if self.grow:
            return _grown_plan(before, self.store, self.source, self.say)

        def begin(is_same: bool) -> None:
            told = "" if is_same else "; its columns are others now: all is made again"
            self.say(f"the run has the first {before.limit:,} rows, and goes on{told}")
            begin_more(self.store, is_same=is_same)

        return go_on(
            before,
            self.source,
            self.config.plan,
            store=self.store,
            limit=limit,
            before_store=check,
            begin=begin,
        )

    def plan_retry(self) -> Retry:
        """Also the rows that are fetched again."""
        fetch = self.config.download.model_dump(mode="json")
        return plan_retry(self.store, origin="download", download=fetch)

    def renews(self, *, grows: bool) -> bool:
        """A retry may find images again, and then all steps after it are made anew."""
        return grows or self.retry

    def is_idle(self, known: CurateSteps, *, renews: bool) -> bool:
        """The plan tells by the list's files whether it has changed."""
        return not renews and not is_unfinished(self.store) and self.is_done(known)

    def check_plan(self, plan: Plan) -> None:
        if not self.grow:
            check_plan_inputs(plan, self.source)
        if plan.rows_per_shard != (asked := self.config.plan.rows_per_shard):
            raise PlanError(
                f"{self.config.output}: planned with plan.rows_per_shard {plan.rows_per_shard}, "
                f"and the configuration says {asked}; put it back, or give another `output`"
            )

    def check_models(self) -> None:
        """Raise what models, and captions from elsewhere, are refused for."""
        if (captions := self.config.caption_files) is not None:
            captions.check()
        check_models(self.config.score, self.config.encode)

    def check_planned(self, known: CurateSteps) -> None:
        _check_columns(self.config, known.plan.columns)

    def may_change(self, made: CurateSteps, *, grows: bool) -> MayChange:
        recorded = read_run(made.store).get("steps", {}).get("download", {})
        is_amended = recorded and recorded["fingerprint"] in made.amendments.before
        revised = ["plan:", "edition."] if is_amended or is_unfinished(made.store) else []
        if is_amended and made.amendments.fetches_again:
            before, now = recorded["options"]["download"], made.config.download
            is_less = now.max_bytes < before["max_bytes"]
            fetch = [name for name in FETCH_OPTIONS if not (name == "max_bytes" and is_less)]
            revised += [f"download.{name}:" for name in fetch]
        return {"recut": recut_steps(self.named, origin="download"), "revised": revised}


def _check_columns(config: CurateConfig, found: Sequence[SourceColumn]) -> None:
    """Hold the rules against the list's columns; raises `ConfigError`."""
    columns = {column.name: column.type for column in found}
    config.before_fetch.check(columns, config.caption_facts)
    check_cut(
        config.select,
        config.score,
        columns,
        storage_options=config.storage_options,
        has_tokens=config.encode is not None,
        has_captions=config.captions is not None,
    )


def _grown_plan(before: Plan, store: RunStore, source: Source, say: Say) -> Plan:
    growth = grow_plan(
        before,
        source,
        store=store,
        same_rows=planned_before(store),
        before_store=lambda: begin_growth(store),
    )
    say(f"the list has {growth.new_rows:,} new rows")
    if growth.ignored:
        say(f"columns that the run does not have are left out: {', '.join(growth.ignored)}")
    return growth.plan
