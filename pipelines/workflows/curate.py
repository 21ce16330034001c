"""The curate job: four committed steps over one list, pipelined shard by shard."""

from collections.abc import Sequence
from functools import partial

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
from pipelines.report.card import CARD_FILE, write_card
from pipelines.revisions.begin import FETCH_OPTIONS, begin_growth, plan_retry, planned_before
from pipelines.revisions.takedown import finish_takedown, is_unfinished
from pipelines.run.amendments import Amendments, write_amendments
from pipelines.run.folder import check_output
from pipelines.run.record import check_or_record, read_revision, read_run
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.sources import Source
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.curate_config import CurateConfig
from pipelines.workflows.curate_steps import CurateSteps
from pipelines.workflows.job import (
    JobResult,
    asked_steps,
    recut_steps,
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
    asked = asked_steps(steps, origin="download", off=config.steps_left_out())
    for line in config.old_keys():
        say(line)
    if grow and retry:
        raise ConfigError("--grow and --retry: give one, then the other")
    store = RunStore(config.output, config.storage_options)
    check_output(store, job="curate")
    source = Source(config.source)
    has_news = grow or retry or is_unfinished(store)
    plan = None if has_news else _stored_plan(config, store, source)
    if plan is not None:
        job = _known_job(config, store, source, plan)
        if job.is_complete(read_revision(store), asked):
            _record(job, steps)
            if not store.exists(CARD_FILE):
                write_card(store)
            say("nothing to do: every asked step is complete")
            return result_of(job, asked)
    source.check_listed()
    check_weights(config.weight_needs())
    check_models(config.score, config.encode)
    with open_session(store, config.engine, say=say) as session:
        finish_takedown(store, say=say)
        plan = _plan(config, store, source, say, grow=grow)
        amendments = _retried(config, store, say) if retry else None
        job = CurateSteps(config, store, source, plan, amendments=amendments)
        columns = {column.name: column.type for column in job.plan.columns}
        job.rows.rules.check(columns, config.caption_facts)
        check_cut(
            config.select,
            config.score,
            columns,
            storage_options=config.storage_options,
            has_tokens=config.encode is not None,
        )
        _record(job, steps, amends=retry)
        run_steps(job, session, asked, say)
        write_card(store)
    return result_of(job, asked)


def _retried(config: CurateConfig, store: RunStore, say: Say) -> Amendments:
    fetch = config.download.model_dump(mode="json")
    retry = plan_retry(store, origin="download", download=fetch)
    say(f"retry: {retry.told}")
    return retry.amendments


def _known_job(config: CurateConfig, store: RunStore, source: Source, plan: Plan) -> CurateSteps:
    """The steps of a run that is planned; raises `WeightsError` for all that cannot be had."""
    try:
        return CurateSteps(config, store, source, plan)
    except WeightsError:
        check_weights(config.weight_needs())
        raise


def _plan(config: CurateConfig, store: RunStore, source: Source, say: Say, *, grow: bool) -> Plan:
    if grow and store.exists("plan/plan.json"):
        plan = _grown_plan(config, store, source, say)
    else:
        plan = _stored_plan(config, store, source) or _new_plan(config, store, source, say)
    for note, count in plan.notes.items():
        say(f"source: {note} ({count:,})")
    settled = sum(plan.settled.values())
    say(f"plan: {plan.num_rows:,} rows in {plan.num_shards:,} shards, {settled:,} settled already")
    return plan


def _new_plan(config: CurateConfig, store: RunStore, source: Source, say: Say) -> Plan:
    say(f"planning: {len(source.files)} file(s)")
    return make_plan(source, config.plan, store=store)


def _grown_plan(config: CurateConfig, store: RunStore, source: Source, say: Say) -> Plan:
    before = load_plan(store)
    _check_shard_size(config, before)
    begin_growth(store)
    growth = grow_plan(before, source, store=store, same_rows=planned_before(store))
    say(f"the list has {growth.new_rows:,} new rows")
    if growth.ignored:
        say(f"columns that the run does not have are left out: {', '.join(growth.ignored)}")
    return growth.plan


def _stored_plan(config: CurateConfig, store: RunStore, source: Source) -> Plan | None:
    """The run's plan, held against the source and the configuration; None where there is none."""
    if not store.exists("plan/plan.json"):
        return None
    plan = load_plan(store)
    check_plan_inputs(plan, source)
    _check_shard_size(config, plan)
    return plan


def _check_shard_size(config: CurateConfig, plan: Plan) -> None:
    if plan.rows_per_shard != config.plan.rows_per_shard:
        raise PlanError(
            f"{config.output}: planned with plan.rows_per_shard {plan.rows_per_shard}, and the "
            f"configuration says {config.plan.rows_per_shard}; put it back, or give another "
            "`output`"
        )


def _record(job: CurateSteps, steps: Sequence[str], *, amends: bool = False) -> None:
    check_or_record(
        job.store,
        job.identities.values(),
        job={"job": "curate", "config": job.public_config, "models": job.config.describe_models()}
        | describe_program(),
        recut=recut_steps(steps, origin="download"),
        revised=_revised(job),
        begin=partial(write_amendments, job.store, job.amendments) if amends else None,
    )


def _revised(job: CurateSteps) -> list[str]:
    """The options of download that a retry or a growth, which has begun, may change."""
    recorded = read_run(job.store).get("steps", {}).get("download")
    if recorded is None or recorded["fingerprint"] not in job.amendments.before:
        return []
    free = ["plan:", "edition."]
    if job.amendments.fetches_again:
        before, now = recorded["options"]["download"], job.config.download
        is_less = now.max_bytes < before["max_bytes"]
        fetch = [name for name in FETCH_OPTIONS if not (name == "max_bytes" and is_less)]
        free += [f"download.{name}:" for name in fetch]
    return free
