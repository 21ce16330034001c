"""The generate job: prompts become images, scores, a ledger and a latent cache."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pipelines.config import ConfigError
from pipelines.engine.session import open_session
from pipelines.plan import allows_more, refuse_growth
from pipelines.plan.record import PLAN_PATH
from pipelines.prompts import (
    PromptPlan,
    gets_more,
    keys_in_two_shards,
    plan_prompts,
)
from pipelines.prompts.notes import notes_of
from pipelines.prompts.record import load_prompt_plan
from pipelines.report.card import is_current, write_card
from pipelines.revisions.begin import plan_retry
from pipelines.revisions.readers import is_shown
from pipelines.revisions.takedown import finish_takedown
from pipelines.rows.ledger import ORIGIN_FACTS
from pipelines.rules.tombstones import is_unfinished
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
from pipelines.steps.generate.foresee import (
    ForeseenModel,
    check_defaults,
    check_init,
    foresee_model,
)
from pipelines.steps.kinds import recut_kinds
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.crops import refuse_more_without_crops, refuse_without_crops
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.generate_steps import GenerateSteps
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
    limit: int | None = None,
) -> JobResult:
    """Run the asked steps of a generation; those that are complete already are left alone.

    Args:
        steps: By name; all by default.
        grow: Add what is new in the list of prompts to a run that has begun.
        retry: Make again the shards that any step gave up.
        limit: Only so many rows of the list, its first; a later call goes on with the others.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    store = RunStore(config.output, config.storage_options)
    job = Generation(config, store, steps=steps, grow=grow, retry=retry, limit=limit, say=say)
    job.check()
    with open_session(store, config.engine, say=say, downloads=False) as session:
        finish_takedown(store, say=say)
        made = job.begin()
        is_done = made.is_complete(read_revision(store), job.asked) and is_shown(store)
        if is_done:
            say("nothing to do: every asked step is complete")
        else:
            if (init := config.generate.init) is not None:
                UsesOfRuns([init], job="generate", output=config.output, say=say)
            run_steps(made, session, job.asked, say)
        if not is_done or not is_current(store):
            write_card(store)
    return result_of(made, job.asked)


class Generation:
    """A generation up to its first step: all that can be refused, then the plan.

    Args:
        store: The run, or a draft of it.
        steps, grow, retry, limit: Of `generate`.
    """

    def __init__(
        self,
        config: GenerateJobConfig,
        store: RunStore,
        *,
        steps: Sequence[str],
        grow: bool,
        retry: bool,
        limit: int | None,
        say: Say,
    ) -> None:
        self.config, self.store, self.say = config, store, say
        self._steps, self._grow, self._retry, self._limit = steps, grow, retry, limit
        self._model: ForeseenModel | None = None
        check_together(grow=grow, retry=retry, limit=limit)

    @cached_property
    def asked(self) -> list[str]:
        """The steps, in order."""
        off = self.config.steps_left_out(self.store)
        return asked_steps(self._steps, origin="generate", off=off)

    def check(self) -> None:
        """Raise what `generate` does for all that can be refused, before anything is written."""
        config, store = self.config, self.store
        for line in config.select.old_keys():
            self.say(line)
        check_output(store, job="generate")
        config.prompts.source().check_listed()
        check_weights(config.weight_needs())
        check_models(config.score)
        self._model = foresee_model(config.generate, say=self.say)
        check_defaults(config.generate, self._model)
        _refuse_earlier_noise(store)
        amendments = None
        if self._retry and not is_unfinished(store):
            amendments = plan_retry(store, origin="generate").amendments
        if self._check_run(amendments):
            check_init(config.generate, self._model)

    def plan_unchecked(self) -> PromptPlan:
        """The plan where models are to be fetched before all can be checked."""
        check_output(self.store, job="generate")
        self.config.prompts.source().check_listed()
        return self.plan()

    def begin(self) -> GenerateSteps:
        """Plan, or grow the plan, and record what is asked for."""
        grows = self._grows()
        plan = self.plan()
        amendments = None
        if self._retry:
            again = plan_retry(self.store, origin="generate")
            amendments = again.amendments
            self.say(f"retry: {again.told}")
        job = GenerateSteps(self.config, self.store, plan, amendments=amendments)
        refuse_without_crops(job, self.asked)
        _record(job, self._steps, grow=grows)
        return job

    def plan(self) -> PromptPlan:
        """The run's plan, made, grown or gone on with as it is asked for."""
        config = self.config
        before = load_prompt_plan(self.store) if self.store.exists(PLAN_PATH) else None
        keeps = before is not None and not self._grows()
        growth = plan_prompts(
            self.store,
            config.prompts.source(),
            config.plan,
            num_images=config.generate.defaults.num_images,
            grow=self._grow,
            limit=before.limit if before is not None and keeps else self._limit,
            say=self.say,
            one_shard_a_key=config.select.best_of is not None,
            columns=config.prompts.columns,
            samplers=config.prompts.samplers,
            notes_of=self._notes_of,
            before_store=lambda columns: _check_columns(config, columns),
        )
        plan = growth.plan
        first = "" if plan.limit is None else "the first "
        self.say(
            f"plan: {first}{plan.num_prompts:,} prompts, {plan.num_rows:,} images in "
            f"{plan.num_shards:,} shards; {growth.new_rows:,} are new"
        )
        return plan

    def _notes_of(self, row: Mapping[str, Any]) -> Iterable[str]:
        model = self._model
        if model is None:
            return ()
        return notes_of(
            row,
            self.config.generate.defaults,
            enlarges=model.enlarges,
            embeds_guidance=model.embeds_guidance,
        )

    def _grows(self) -> bool:
        """Whether the plan may get further rows; raises `ConfigError` where it may not."""
        if not self.store.exists(PLAN_PATH):
            return False
        plan = load_prompt_plan(self.store)
        if self._grow:
            refuse_growth(plan.limit)
        more = gets_more(plan, self._limit)
        grows = self._grow or allows_more(
            more, self._limit, retry=self._retry, is_asked="generate" in self.asked
        )
        refuse_more_without_crops(self.store, grows=grows)
        return grows

    def _check_run(self, amendments: Amendments | None) -> bool:
        """Refuse what cannot be done with the run as it is; whether images are to be made."""
        config, is_planned, grows = self.config, self.store.exists(PLAN_PATH), self._grows()
        if grows or not is_planned:
            off = config.steps_left_out(self.store)
            require_named(self.asked, origin="generate", off=off, renews=is_planned)
        if not is_planned:
            return True
        plan = load_prompt_plan(self.store)
        job = GenerateSteps(config, self.store, plan, amendments=amendments)
        _check_columns(config, plan.columns)
        if config.select.best_of is not None and (keys := keys_in_two_shards(plan, self.store)):
            raise ConfigError(
                f"select.best_of: it chooses within a shard, and the images of {len(keys)} key(s) "
                f"lie in more than one ({', '.join(keys[:3])}): they were planned without it. "
                "Leave it out, or give another `output`"
            )
        may_change = _may_change(job, self._steps, grow=grows)
        check_recorded(self.store, job.identities.values(), **may_change)
        if not grows and not is_unfinished(self.store):
            require_parents(job, self.asked)
        return "generate" in self.asked and (grows or not job.has_every_shard("generate"))


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
    if job.has_only_grown(is_asked=grow):
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


def _refuse_earlier_noise(store: RunStore) -> None:
    """Refuse a run of an earlier version before its plan is touched."""
    recorded = read_run(store).get("steps", {}).get("generate")
    if recorded is not None and recorded["options"]["generate"].get("noise") != NOISE_VERSION:
        raise RunMismatchError(
            f"{store.root}: this run was made by an earlier version, which drew noise from each "
            "row's key: it can be read, verified and trained on, but not resumed or grown; give "
            "another `output` (its metadata folder, given as prompts.path, makes its images again)"
        )
