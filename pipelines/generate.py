"""The generate job: prompts become images, scores, a ledger and a latent cache."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from pydantic import Field, model_validator

from pipelines.caption_facts import CaptionFactsConfig
from pipelines.config import Config, ConfigError
from pipelines.engine.config import EngineConfig
from pipelines.engine.progress import funnel_table
from pipelines.engine.session import Session, open_session
from pipelines.generate_steps import GenerateSteps
from pipelines.job_steps import (
    check_claims,
    check_scores_are_made,
    complete,
    is_complete,
    require_parents,
)
from pipelines.ledger import ORIGIN_FACTS
from pipelines.prompts import (
    PromptPlan,
    PromptPlanConfig,
    PromptsConfig,
    keys_in_two_shards,
    plan_prompts,
)
from pipelines.report import CARD_FILE, write_card
from pipelines.run import Revision, StepSummary, check_or_record, read_revision
from pipelines.stages.generate import GenerateConfig, check_generation_model
from pipelines.stages.score import ScoreConfig
from pipelines.stages.select import SelectConfig, check_select
from pipelines.storage import RunStore
from pipelines.versions import describe_program
from sd_core.model.weights import WeightsNeed, check_weights

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
    store = RunStore(config.output, config.storage_options)
    check_weights(_weight_needs(config))
    check_generation_model(config.generate, say=say)
    with open_session(store, config.engine, say=say, downloads=False) as session:
        job = GenerateSteps(config, store, _plan(config, store, grow=grow, say=say))
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
    return _result(job, read_revision(store))


def _plan(config: GenerateJobConfig, store: RunStore, *, grow: bool, say: Say) -> PromptPlan:
    growth = plan_prompts(
        store,
        config.prompts.source(),
        config.plan,
        num_images=config.generate.defaults.num_images,
        grow=grow,
        say=say,
        one_shard_a_key=config.select.best_of is not None,
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


def _result(job: GenerateSteps, revision: Revision) -> GenerateResult:
    steps = revision.steps
    shown: list[tuple[str, StepSummary]] = []
    if "generate" in steps:
        shown.append(("generate", steps["generate"]))
    if "select" in steps:
        # The ledger counts every row; here each row is shown at the step that dropped it.
        own = Counter(steps["select"].dropped) - Counter(steps["generate"].dropped)
        made = steps["generate"].kept
        shown.append(("select", replace(steps["select"], rows_in=made, dropped=dict(own))))
    if "encode" in steps:
        shown.append(("encode", steps["encode"]))
    return GenerateResult(
        funnel=funnel_table(job.plan.num_rows, shown),
        quarantined=sum(len(summary.quarantined) for summary in steps.values()),
    )
