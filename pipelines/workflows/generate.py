"""The generate job: prompts become images, scores, a ledger and a latent cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from pydantic import Field, model_validator

from pipelines.config import Config, ConfigError
from pipelines.engine.config import EngineConfig
from pipelines.engine.progress import funnel_table
from pipelines.engine.session import Session, open_session
from pipelines.prompts import (
    PromptPlan,
    PromptPlanConfig,
    PromptsConfig,
    keys_in_two_shards,
    plan_prompts,
)
from pipelines.prompts.notes import notes_of
from pipelines.report import CARD_FILE, say_cut_captions, write_card
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.rows.ledger import ORIGIN_FACTS
from pipelines.run.folder import check_output
from pipelines.run.funnel import funnel_of
from pipelines.run.record import (
    Revision,
    RunMismatchError,
    check_or_record,
    read_revision,
    read_run,
)
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.steps.generate import GenerateConfig
from pipelines.steps.generate.foresee import ForeseenModel, check_defaults, foresee_model
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig, check_select
from pipelines.workflows.generate_steps import GenerateSteps
from pipelines.workflows.job import (
    check_claims,
    check_models,
    check_named_steps,
    check_scores_are_made,
    complete,
    describe_nothing_kept,
    is_complete,
    require_parents,
)
from sd_core.model.weights import WeightsNeed, check_weights
from sd_core.sampling.noise import NOISE_VERSION

GENERATE_STEPS: Final = ("generate", "score", "select", "encode")
RECUTTABLE: Final = frozenset({"select", "encode"})

Say = Callable[[str], None]


class GenerateJobConfig(Config):
    """Everything `jobs/generate.py` can be told; one section for each part of the job."""

    output: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""
    prompts: PromptsConfig
    plan: PromptPlanConfig = PromptPlanConfig()
    generate: GenerateConfig
    caption_facts: CaptionFactsConfig = CaptionFactsConfig()
    """What is measured on the prompts."""
    score: ScoreConfig | None = None
    """Null: nothing is scored."""
    select: SelectConfig = SelectConfig()
    engine: EngineConfig = EngineConfig()
    storage_options: dict[str, str | int | float | bool | dict[str, str] | None] = Field(
        default_factory=dict, repr=False
    )
    """Passed to fsspec for `output`; may hold secrets, so it is never stored."""

    @model_validator(mode="after")
    def _scores_are_made(self) -> Self:
        check_scores_are_made(self.select, self.score)
        return self


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """What the job ends with: the closing table, and shards that were given up."""

    funnel: str
    quarantined: int
    nothing_kept: str | None = None
    """Where every step ran and no image is left: the reasons; None where one is, or it is open."""


def generate(
    config: GenerateJobConfig,
    *,
    say: Say,
    steps: Sequence[str] = GENERATE_STEPS,
    grow: bool = False,
) -> GenerateResult:
    """Run the asked steps of a generation; those that are complete already are left alone.

    Args:
        grow: Add what is new in the list of prompts to a run that has begun.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    unknown = [step for step in steps if step not in GENERATE_STEPS]
    if unknown:
        raise ConfigError(f"--steps {','.join(unknown)}: allowed: {', '.join(GENERATE_STEPS)}")
    off = {name for name, section in _optional(config).items() if section is None}
    check_named_steps(steps, every=GENERATE_STEPS, off=off)
    for line in config.select.old_keys():
        say(line)
    store = RunStore(config.output, config.storage_options)
    check_output(store, job="generate")
    config.prompts.source().check_listed()
    check_weights(_weight_needs(config))
    check_models(config.score)
    model = foresee_model(config.generate, say=say)
    check_defaults(config.generate, model)
    _refuse_earlier_noise(store)
    with open_session(store, config.engine, say=say, downloads=False) as session:
        job = GenerateSteps(config, store, _plan(config, store, model, grow=grow, say=say))
        columns = [column.name for column in job.plan.columns]
        check_claims(config.select, config.score, columns)
        check_select(
            config.select,
            {column.name: column.type for column in job.plan.columns},
            facts=ORIGIN_FACTS["generate"],
            storage_options=config.storage_options,
        )
        asked = [step for step in job.configured() if step in steps]
        recut = RECUTTABLE & set(steps) if set(steps) != set(GENERATE_STEPS) else frozenset[str]()
        if grow and job.has_only_grown():
            recut = RECUTTABLE
        check_or_record(
            store,
            job.identities.values(),
            job={"job": "generate", "config": job.public_config, "models": job.models}
            | describe_program(),
            recut=recut,
        )
        is_done = is_complete(job, read_revision(store), asked)
        if is_done:
            say("nothing to do: every asked step is complete")
        else:
            _run(job, session, asked, say)
        if not store.exists(CARD_FILE) or not is_done:
            write_card(store)
    return _result(job, read_revision(store), asked)


def _optional(config: GenerateJobConfig) -> dict[str, object]:
    return {"score": config.score, "encode": config.generate.latents}


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
    )
    plan = growth.plan
    if config.select.best_of is not None and (keys := keys_in_two_shards(plan, store)):
        raise ConfigError(
            f"select.best_of: it chooses within a shard, and the images of {len(keys)} key(s) lie "
            f"in more than one ({', '.join(keys[:3])}): they were planned without it. Leave it "
            "out, or give another `output`"
        )
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


def _weight_needs(config: GenerateJobConfig) -> list[WeightsNeed]:
    needs = config.generate.weight_needs("generate")
    return needs if config.score is None else [*needs, *config.score.weight_needs("score")]


def _run(job: GenerateSteps, session: Session, asked: Sequence[str], say: Say) -> None:
    require_parents(job, asked)
    num_shards = job.plan.num_shards
    for step in asked:
        if step == "select":
            session.start(step, shards_total=num_shards, shards_done=0)
            job.select().run(session.on_commit)
        else:
            # One pool of workers at a time: generate and score both want every GPU whole.
            worker = job.shard_step(step, session.model_resources)
            session.run([worker], num_shards=num_shards)
        complete(job, step, say=say)
        if step == "select":
            say_cut_captions(job.store, say)


def _result(job: GenerateSteps, revision: Revision, asked: Sequence[str]) -> GenerateResult:
    return GenerateResult(
        funnel=funnel_table(job.plan.num_rows, funnel_of(revision, "generate")),
        quarantined=sum(len(summary.quarantined) for summary in revision.steps.values()),
        nothing_kept=(
            describe_nothing_kept(revision.steps, last=job.configured()[-1])
            if set(asked) >= job.identities.keys()
            else None
        ),
    )
