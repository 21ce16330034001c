"""The generate job: prompts become images, scores, a ledger and a latent cache."""

from collections.abc import Sequence

from pipelines.config import ConfigError
from pipelines.engine.session import open_session
from pipelines.plan.record import PLAN_PATH
from pipelines.prompts import (
    PromptPlan,
    keys_in_two_shards,
    plan_prompts,
)
from pipelines.prompts.notes import notes_of
from pipelines.prompts.record import load_prompt_plan
from pipelines.report.card import CARD_FILE, write_card
from pipelines.revisions.begin import plan_retry
from pipelines.revisions.readers import is_shown
from pipelines.revisions.takedown import finish_takedown, is_unfinished
from pipelines.rows.ledger import ORIGIN_FACTS
from pipelines.run.amendments import Amendments
from pipelines.run.folder import check_output
from pipelines.run.record import (
    RunMismatchError,
    read_revision,
    read_run,
)
from pipelines.run.recorded_options import MayChange, check_or_record, check_recorded
from pipelines.run.store import RunStore
from pipelines.run.used_by import UsesOfRuns
from pipelines.run.versions import describe_program
from pipelines.sources.columns import SourceColumn
from pipelines.steps.generate.foresee import ForeseenModel, check_defaults, foresee_model
from pipelines.steps.kinds import recut_kinds
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.generate_steps import GenerateSteps
from pipelines.workflows.job import (
    JobResult,
    asked_steps,
    recut_steps,
    require_named,
    require_parents,
    result_of,
    run_steps,
)
from sd_core.model.weights import check_weights
from sd_core.sampling.noise import NOISE_VERSION
from sd_core.say import Say


def generate(
    config: GenerateJobConfig,
    *,
    say: Say,
    steps: Sequence[str] = (),
    grow: bool = False,
    retry: bool = False,
) -> JobResult:
    """Run the asked steps of a generation; those that are complete already are left alone.

    Args:
        steps: By name; all by default.
        grow: Add what is new in the list of prompts to a run that has begun.
        retry: Make again the shards that any step gave up.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    for line in config.select.old_keys():
        say(line)
    if grow and retry:
        raise ConfigError("--grow and --retry: give one, then the other")
    store = RunStore(config.output, config.storage_options)
    check_output(store, job="generate")
    asked = asked_steps(steps, origin="generate", off=config.steps_left_out(store))
    config.prompts.source().check_listed()
    check_weights(config.weight_needs())
    check_models(config.score)
    model = foresee_model(config.generate, say=say)
    check_defaults(config.generate, model)
    _refuse_earlier_noise(store)
    amendments = None
    if retry and not is_unfinished(store):
        amendments = plan_retry(store, origin="generate").amendments
    _check_run(config, store, asked, steps, grow=grow, amendments=amendments)
    with open_session(store, config.engine, say=say, downloads=False) as session:
        finish_takedown(store, say=say)
        plan = _plan(config, store, model, grow=grow, say=say)
        if retry:
            again = plan_retry(store, origin="generate")
            amendments = again.amendments
            say(f"retry: {again.told}")
        job = GenerateSteps(config, store, plan, amendments=amendments)
        _record(job, steps, grow=grow)
        is_done = job.is_complete(read_revision(store), asked) and is_shown(store)
        if is_done:
            say("nothing to do: every asked step is complete")
        else:
            if (init := config.generate.init) is not None:
                UsesOfRuns([init], job="generate", output=config.output, say=say)
            run_steps(job, session, asked, say)
        if not store.exists(CARD_FILE) or not is_done:
            write_card(store)
    return result_of(job, asked)


def _check_run(
    config: GenerateJobConfig,
    store: RunStore,
    asked: Sequence[str],
    steps: Sequence[str],
    *,
    grow: bool,
    amendments: Amendments | None,
) -> None:
    """Refuse what cannot be done with the run as it is, before anything is written."""
    is_planned = store.exists(PLAN_PATH)
    if grow or not is_planned:
        off = config.steps_left_out(store)
        require_named(asked, origin="generate", off=off, renews=is_planned)
    if not is_planned:
        return
    job = GenerateSteps(config, store, load_prompt_plan(store), amendments=amendments)
    _check_columns(config, job.plan.columns)
    if config.select.best_of is not None and (keys := keys_in_two_shards(job.plan, store)):
        raise ConfigError(
            f"select.best_of: it chooses within a shard, and the images of {len(keys)} key(s) lie "
            f"in more than one ({', '.join(keys[:3])}): they were planned without it. Leave it "
            "out, or give another `output`"
        )
    check_recorded(store, job.identities.values(), **_may_change(job, steps, grow=grow))
    if not grow and not is_unfinished(store):
        require_parents(job, asked)


def _check_columns(config: GenerateJobConfig, columns: Sequence[SourceColumn]) -> None:
    """Hold the rules against the list's columns; raises `ConfigError`."""
    check_cut(
        config.select,
        config.score,
        {column.name: column.type for column in columns},
        facts=ORIGIN_FACTS["generate"],
        storage_options=config.storage_options,
    )


def _may_change(job: GenerateSteps, steps: Sequence[str], *, grow: bool) -> MayChange:
    """What a re-cut, a growth or a takedown may have changed of the recorded options."""
    recut = recut_steps(steps, origin="generate")
    if grow and job.has_only_grown():
        recut = recut_kinds()
    return {"recut": recut, "revised": ("edition.",) if is_unfinished(job.store) else ()}


def _record(job: GenerateSteps, steps: Sequence[str], *, grow: bool) -> None:
    models = job.config.describe_models()
    check_or_record(
        job.store,
        job.identities.values(),
        job={"job": "generate", "config": job.public_config, "models": models} | describe_program(),
        begin=job.begin,
        **_may_change(job, steps, grow=grow),
    )


def _plan(
    config: GenerateJobConfig, store: RunStore, model: ForeseenModel, *, grow: bool, say: Say
) -> PromptPlan:
    growth = plan_prompts(
        store,
        config.prompts.source(),
        config.plan,
        num_images=config.generate.defaults.num_images,
        grow=grow,
        say=say,
        one_shard_a_key=config.select.best_of is not None,
        columns=config.prompts.columns,
        samplers=config.prompts.samplers,
        notes_of=lambda row: notes_of(
            row,
            config.generate.defaults,
            enlarges=model.enlarges,
            embeds_guidance=model.embeds_guidance,
        ),
        before_store=lambda columns: _check_columns(config, columns),
    )
    plan = growth.plan
    say(
        f"plan: {plan.num_prompts:,} prompts, {plan.num_rows:,} images in {plan.num_shards:,} "
        f"shards; {growth.new_rows:,} are new"
    )
    return plan


def _refuse_earlier_noise(store: RunStore) -> None:
    """Refuse a run of an earlier version before its plan is touched."""
    recorded = read_run(store).get("steps", {}).get("generate")
    if recorded is not None and recorded["options"]["generate"].get("noise") != NOISE_VERSION:
        raise RunMismatchError(
            f"{store.root}: this run was made by an earlier version, which drew noise from each "
            "row's key: it can be read, verified and trained on, but not resumed or grown; give "
            "another `output` (its metadata folder, given as prompts.path, makes its images again)"
        )
