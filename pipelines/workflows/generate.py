"""The generate job: prompts become images, scores, a ledger and a latent cache."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Unpack

from pipelines.config import ConfigError
from pipelines.plan import is_to_go_on
from pipelines.prompts import PromptPlan, PromptPlanner, keys_in_two_shards
from pipelines.prompts.notes import notes_of
from pipelines.prompts.record import load_prompt_plan
from pipelines.rows.ledger import ORIGIN_FACTS
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.amendments import Amendments
from pipelines.run.record import RunMismatchError, read_run
from pipelines.run.recorded_options import MayChange
from pipelines.run.store import RunStore
from pipelines.run.used_by import UsesOfRuns
from pipelines.sources import Source
from pipelines.sources.columns import SourceColumn
from pipelines.steps.generate.foresee import (
    ForeseenModel,
    check_defaults,
    check_init,
    foresee_model,
)
from pipelines.steps.kinds import recut_kinds
from pipelines.workflows.asked_job import Asked, AskedJob
from pipelines.workflows.checks import check_cut, check_models
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.generate_steps import GenerateSteps
from pipelines.workflows.job import JobResult, recut_steps
from sd_core.sampling.noise import NOISE_VERSION
from sd_core.say import Say


def generate(config: GenerateJobConfig, *, say: Say, **asked: Unpack[Asked]) -> JobResult:
    """Run the asked steps of a generation; those that are complete already are left alone.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    store = RunStore(config.output, config.storage_options)
    return Generation(config, store, **asked, say=say).run()


class Generation(AskedJob[GenerateJobConfig, PromptPlan, GenerateSteps]):
    """A generation as a command asks for it."""

    name = "generate"
    downloads = False
    _model: ForeseenModel | None = None

    @cached_property
    def source(self) -> Source:
        return self.config.prompts.source()

    def load(self) -> PromptPlan:
        return load_prompt_plan(self.store)

    def steps_of(self, plan: PromptPlan, amendments: Amendments | None) -> GenerateSteps:
        return GenerateSteps(self.config, self.store, plan, amendments=amendments)

    def gets_more(self, before: PromptPlan) -> bool:
        return is_to_go_on(before.limit, num_rows=before.num_prompts, limit=self.limit)

    def plan(self) -> PromptPlan:
        config = self.config
        keeps = self.is_planned and not self.grows()
        growth = PromptPlanner(
            self.store,
            self.source,
            config.plan,
            num_images=config.generate.defaults.num_images,
            say=self.say,
            limit=self.load().limit if keeps else self.limit,
            one_shard_a_key=config.select.best_of is not None,
            columns=config.prompts.columns,
            samplers=config.prompts.samplers,
            notes_of=self._notes_of,
            before_store=partial(_check_columns, config),
        ).plan(grow=self.grow)
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

    def leave_word(self) -> None:
        """Of the run whose images are drawn over."""
        if (init := self.config.generate.init) is not None:
            UsesOfRuns([init], job="generate", output=self.config.output, say=self.say)

    def refuse(self, known: GenerateSteps | None, *, grows: bool) -> None:
        """Also images to draw over that do not fit the model, where any are to be made."""
        super().refuse(known, grows=grows)
        is_owed = known is None or grows or not known.has_every_shard("generate")
        if is_owed and (known is None or "generate" in self.asked):
            assert self._model is not None
            check_init(self.config.generate, self._model)

    def check_models(self) -> None:
        """Raise what models are refused for, and a run of an earlier version."""
        config = self.config.generate
        check_models(self.config.score)
        self._model = foresee_model(config, say=self.say)
        check_defaults(config, self._model)
        _refuse_earlier_noise(self.store)

    def check_planned(self, known: GenerateSteps) -> None:
        plan = known.plan
        _check_columns(self.config, plan.columns)
        is_best_of = self.config.select.best_of is not None
        if is_best_of and (keys := keys_in_two_shards(plan, self.store)):
            raise ConfigError(
                f"select.best_of: it chooses within a shard, and the images of {len(keys)} key(s) "
                f"lie in more than one ({', '.join(keys[:3])}): they were planned without it. "
                "Leave it out, or give another `output`"
            )

    def may_change(self, made: GenerateSteps, *, grows: bool) -> MayChange:
        recut = recut_steps(self.named, origin="generate")
        if made.has_only_grown(is_asked=grows):
            recut = recut_kinds()
        return {"recut": recut, "revised": ("edition.",) if is_unfinished(made.store) else ()}


def _check_columns(config: GenerateJobConfig, columns: Sequence[SourceColumn]) -> None:
    """Hold the rules against the list's columns; raises `ConfigError`."""
    check_cut(
        config.select,
        config.score,
        {column.name: column.type for column in columns},
        facts=ORIGIN_FACTS["generate"],
        storage_options=config.storage_options,
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
