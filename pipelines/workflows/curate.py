"""The curate job: four committed steps over one list, pipelined shard by shard."""

from collections.abc import Sequence
from functools import cached_property

from pipelines.engine.session import open_session
from pipelines.plan import (
    Plan,
    PlanError,
    allows_more,
    check_plan_inputs,
    go_on,
    grow_plan,
    is_to_go_on,
    load_plan,
    make_plan,
    refuse_growth,
)
from pipelines.plan.record import PLAN_PATH
from pipelines.report.card import is_current, write_card
from pipelines.revisions.begin import (
    FETCH_OPTIONS,
    Retry,
    begin_growth,
    begin_more,
    plan_retry,
    planned_before,
)
from pipelines.revisions.readers import is_shown
from pipelines.revisions.takedown import finish_takedown
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.folder import check_output
from pipelines.run.record import read_revision, read_run
from pipelines.run.recorded_options import MayChange, check_or_record, check_recorded
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.crops import refuse_more_without_crops, refuse_without_crops
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from pipelines.workflows.job import (
    JobResult,
    asked_steps,
    check_together,
    recut_steps,
    require_named,
    require_parents,
    result_of,
    run_steps,
)
from sd_core.model.weights import WeightsError, check_weights
from sd_core.say import Say


def curate(
    config: CurateConfig,
    *,
    steps: Sequence[str] = (),
    say: Say,
    grow: bool = False,
    retry: bool = False,
    limit: int | None = None,
) -> JobResult:
    """Run the asked steps of a curate job; those that are complete already are left alone.

    Args:
        steps: By name; all by default.
        grow: Add the list's new files, and rows at the end of planned ones, to a run that has
            begun.
        retry: Fetch again the rows that failed for a reason that can pass, and make again the
            shards that any step gave up.
        limit: Only so many rows of the list, its first; a later call goes on with the others.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    store = RunStore(config.output, config.storage_options)
    job = Curation(config, store, steps=steps, grow=grow, retry=retry, limit=limit, say=say)
    known = job.check()
    if known is not None:
        _record(known, steps)
        if not is_current(store):
            write_card(store)
        say("nothing to do: every asked step is complete")
        return result_of(known, job.asked)
    with open_session(store, config.engine, say=say) as session:
        finish_takedown(store, say=say)
        made = job.begin()
        run_steps(made, session, job.asked, say)
        write_card(store, made.known)
    return result_of(made, job.asked)


class Curation:
    """A curate job up to its first step: all that can be refused, then the plan.

    Args:
        store: The run, or a draft of it.
        steps, grow, retry, limit: Of `curate`.
    """

    def __init__(
        self,
        config: CurateConfig,
        store: RunStore,
        *,
        steps: Sequence[str],
        grow: bool,
        retry: bool,
        limit: int | None,
        say: Say,
    ) -> None:
        self.config, self.store, self.say = config, store, say
        self.source = Source(config.source)
        self._steps, self._grow, self._retry, self._limit = steps, grow, retry, limit
        check_together(grow=grow, retry=retry, limit=limit)

    @cached_property
    def asked(self) -> list[str]:
        """The steps, in order."""
        off = self.config.steps_left_out(self.store)
        return asked_steps(self._steps, origin="download", off=off)

    def check(self) -> CurateSteps | None:
        """Raise what `curate` does for all that can be refused, before anything is written; the
        run's steps where nothing is left to do."""
        for line in self.config.old_keys():
            self.say(line)
        check_output(self.store, job="curate")
        known, more = None, False
        again = self._again() if self._retry and not is_unfinished(self.store) else None
        if self.store.exists(PLAN_PATH):
            before = load_plan(self.store)
            more = self._gets_more(before)
            known = self._known(before, again)
        renews = self._grow or self._retry or more
        is_idle = known and not renews and not is_unfinished(self.store)
        is_done = known and known.is_complete(read_revision(self.store), self.asked)
        if known and is_idle and is_done and is_shown(self.store):
            return known
        self._check_before(known, renews=renews)
        return None

    def plan_unchecked(self) -> Plan:
        """The plan where models are to be fetched before all can be checked."""
        check_output(self.store, job="curate")
        self.source.check_listed()
        if self.store.exists(PLAN_PATH):
            self._check_plan(load_plan(self.store))
        return self.plan()

    def begin(self) -> CurateSteps:
        """Plan, or grow the plan, and record what is asked for."""
        plan = self.plan()
        again = self._again() if self._retry else None
        if again is not None:
            self.say(f"retry: {again.told}")
        amendments = None if again is None else again.amendments
        job = CurateSteps(self.config, self.store, self.source, plan, amendments=amendments)
        refuse_without_crops(job, self.asked)
        _record(job, self._steps)
        return job

    def plan(self) -> Plan:
        """The run's plan, made, grown or gone on with as it is asked for."""
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
        if not self.store.exists(PLAN_PATH):
            self.say(f"planning: {len(self.source.files)} file(s)")
            return make_plan(
                self.source,
                self.config.plan,
                store=self.store,
                limit=self._limit,
                before_store=lambda columns: _check_columns(self.config, columns),
            )
        before = load_plan(self.store)
        if self._grow:
            return _grown_plan(before, self.store, self.source, self.say)
        return self._with_more(before) if self._gets_more(before) else before

    def _gets_more(self, before: Plan) -> bool:
        """Whether a run of the list's first rows goes on; raises `ConfigError` where it may not."""
        if self._grow:
            refuse_growth(before.limit)
        more = is_to_go_on(before.limit, num_rows=before.num_rows, limit=self._limit)
        more = allows_more(more, self._limit, retry=self._retry, is_asked="download" in self.asked)
        refuse_more_without_crops(self.store, grows=self._grow or more)
        return more

    def _with_more(self, before: Plan) -> Plan:
        def begin(is_same: bool) -> None:
            told = "" if is_same else "; its columns are others now: all is made again"
            self.say(f"the run has the first {before.limit:,} rows, and goes on{told}")
            begin_more(self.store, is_same=is_same)

        return go_on(
            before,
            self.source,
            self.config.plan,
            store=self.store,
            limit=self._limit,
            before_store=lambda columns: _check_columns(self.config, columns),
            begin=begin,
        )

    def _again(self) -> Retry:
        fetch = self.config.download.model_dump(mode="json")
        return plan_retry(self.store, origin="download", download=fetch)

    def _known(self, plan: Plan, again: Retry | None) -> CurateSteps:
        """The steps of a run that is planned; raises `WeightsError` for all that cannot be had."""
        self._check_plan(plan)
        try:
            amendments = None if again is None else again.amendments
            return CurateSteps(self.config, self.store, self.source, plan, amendments=amendments)
        except WeightsError:
            check_weights(self.config.weight_needs())
            raise

    def _check_plan(self, plan: Plan) -> None:
        if not self._grow:
            check_plan_inputs(plan, self.source)
        if plan.rows_per_shard != (asked := self.config.plan.rows_per_shard):
            raise PlanError(
                f"{self.config.output}: planned with plan.rows_per_shard {plan.rows_per_shard}, "
                f"and the configuration says {asked}; put it back, or give another `output`"
            )

    def _check_before(self, known: CurateSteps | None, *, renews: bool) -> None:
        self.source.check_listed()
        if (captions := self.config.caption_files) is not None:
            captions.check()
        check_weights(self.config.weight_needs())
        check_models(self.config.score, self.config.encode)
        if known is None or renews:
            off = self.config.steps_left_out(self.store)
            require_named(self.asked, origin="download", off=off, renews=renews)
        if known is not None:
            _check_columns(self.config, known.plan.columns)
            check_recorded(self.store, known.identities.values(), **_may_change(known, self._steps))
            if not is_unfinished(self.store):
                require_parents(known, self.asked)


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


def _record(job: CurateSteps, steps: Sequence[str]) -> None:
    check_or_record(
        job.store,
        job.identities.values(),
        job={"job": "curate", "config": job.public_config, "models": job.config.describe_models()}
        | describe_program(),
        begin=job.begin,
        **_may_change(job, steps),
    )


def _may_change(job: CurateSteps, steps: Sequence[str]) -> MayChange:
    """What a re-cut, a retry, a growth or a takedown may have changed of the recorded options."""
    recorded = read_run(job.store).get("steps", {}).get("download", {})
    is_amended = recorded and recorded["fingerprint"] in job.amendments.before
    revised = ["plan:", "edition."] if is_amended or is_unfinished(job.store) else []
    if is_amended and job.amendments.fetches_again:
        before, now = recorded["options"]["download"], job.config.download
        is_less = now.max_bytes < before["max_bytes"]
        fetch = [name for name in FETCH_OPTIONS if not (name == "max_bytes" and is_less)]
        revised += [f"download.{name}:" for name in fetch]
    return {"recut": recut_steps(steps, origin="download"), "revised": revised}
