"""The curate job: four committed steps over one list, pipelined shard by shard."""

from collections.abc import Sequence

from pipelines.config import ConfigError
from pipelines.engine.session import open_session
from pipelines.plan import (
    Plan,
    PlanError,
    check_plan_inputs,
    grow_plan,
    load_plan,
    make_plan,
)
from pipelines.plan.record import PLAN_PATH
from pipelines.report.card import CARD_FILE, write_card
from pipelines.revisions.begin import (
    FETCH_OPTIONS,
    Retry,
    begin_growth,
    plan_retry,
    planned_before,
)
from pipelines.revisions.readers import is_shown
from pipelines.revisions.takedown import finish_takedown, is_unfinished
from pipelines.run.folder import check_output
from pipelines.run.record import read_revision, read_run
from pipelines.run.recorded_options import MayChange, check_or_record, check_recorded
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from pipelines.workflows.job import (
    JobResult,
    asked_steps,
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
) -> JobResult:
    """Run the asked steps of a curate job; those that are complete already are left alone.

    Args:
        steps: By name; all by default.
        grow: Add the list's new files, and rows at the end of planned ones, to a run that has
            begun.
        retry: Fetch again the rows that failed for a reason that can pass, and make again the
            shards that any step gave up.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    for line in config.old_keys():
        say(line)
    if grow and retry:
        raise ConfigError("--grow and --retry: give one, then the other")
    store = RunStore(config.output, config.storage_options)
    check_output(store, job="curate")
    asked = asked_steps(steps, origin="download", off=config.steps_left_out(store))
    source = Source(config.source)
    renews = grow or retry
    again = _plan_retry(config, store) if retry and not is_unfinished(store) else None
    known = None
    if store.exists(PLAN_PATH):
        known = _known_job(config, store, source, grow=grow, again=again)
    has_news = renews or is_unfinished(store)
    is_done = known is not None and known.is_complete(read_revision(store), asked)
    if known and is_done and not has_news and is_shown(store):
        _record(known, steps)
        if not store.exists(CARD_FILE):
            write_card(store)
        say("nothing to do: every asked step is complete")
        return result_of(known, asked)
    _check_before(config, store, source, known, asked, steps, renews=renews)
    with open_session(store, config.engine, say=say) as session:
        finish_takedown(store, say=say)
        plan = _plan(config, store, source, say, grow=grow)
        again = _plan_retry(config, store) if retry else None
        if again is not None:
            say(f"retry: {again.told}")
        amendments = None if again is None else again.amendments
        job = CurateSteps(config, store, source, plan, amendments=amendments)
        _record(job, steps)
        run_steps(job, session, asked, say)
        write_card(store)
    return result_of(job, asked)


def _check_before(
    config: CurateConfig,
    store: RunStore,
    source: Source,
    known: CurateSteps | None,
    asked: Sequence[str],
    steps: Sequence[str],
    *,
    renews: bool,
) -> None:
    """All that can be refused, before anything is written; raises what `curate` does."""
    source.check_listed()
    check_weights(config.weight_needs())
    check_models(config.score, config.encode)
    if known is None or renews:
        require_named(asked, origin="download", off=config.steps_left_out(store), renews=renews)
    if known is not None:
        _check_columns(config, known.plan.columns)
        check_recorded(store, known.identities.values(), **_may_change(known, steps))
        if not is_unfinished(store):
            require_parents(known, asked)


def _plan_retry(config: CurateConfig, store: RunStore) -> Retry:
    fetch = config.download.model_dump(mode="json")
    return plan_retry(store, origin="download", download=fetch)


def _known_job(
    config: CurateConfig, store: RunStore, source: Source, *, grow: bool, again: Retry | None
) -> CurateSteps:
    """The steps of a run that is planned; raises `WeightsError` for all that cannot be had."""
    plan = load_plan(store)
    if not grow:
        check_plan_inputs(plan, source)
    _check_shard_size(config, plan)
    try:
        amendments = None if again is None else again.amendments
        return CurateSteps(config, store, source, plan, amendments=amendments)
    except WeightsError:
        check_weights(config.weight_needs())
        raise


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
    )


def _plan(config: CurateConfig, store: RunStore, source: Source, say: Say, *, grow: bool) -> Plan:
    if not store.exists(PLAN_PATH):
        say(f"planning: {len(source.files)} file(s)")
        plan = make_plan(
            source,
            config.plan,
            store=store,
            before_store=lambda columns: _check_columns(config, columns),
        )
    else:
        plan = _grown_plan(load_plan(store), store, source, say) if grow else load_plan(store)
    for note, count in plan.notes.items():
        say(f"source: {note} ({count:,})")
    settled = sum(plan.settled.values())
    say(f"plan: {plan.num_rows:,} rows in {plan.num_shards:,} shards, {settled:,} settled already")
    return plan


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


def _check_shard_size(config: CurateConfig, plan: Plan) -> None:
    if plan.rows_per_shard != config.plan.rows_per_shard:
        raise PlanError(
            f"{config.output}: planned with plan.rows_per_shard {plan.rows_per_shard}, and the "
            f"configuration says {config.plan.rows_per_shard}; put it back, or give another "
            "`output`"
        )


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
