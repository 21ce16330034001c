"""The curate job: four committed steps over one list, pipelined shard by shard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import Field, model_validator

from pipelines.config import Config, ConfigError
from pipelines.engine.config import EngineConfig
from pipelines.engine.progress import funnel_table
from pipelines.engine.session import Session, open_session
from pipelines.plan import (
    Plan,
    PlanConfig,
    PlanError,
    check_plan_inputs,
    grow_plan,
    load_plan,
    make_plan,
)
from pipelines.report import CARD_FILE, say_cut_captions, write_card
from pipelines.revisions.begin import begin_growth, begin_retry, planned_before
from pipelines.revisions.difference import compare_cuts
from pipelines.revisions.takedown import finish_takedown, is_unfinished
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.rules.before_fetch import BeforeFetch
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.old_keys import RulesConfig, old_rules, say_instead
from pipelines.run.folder import check_output
from pipelines.run.funnel import funnel_of
from pipelines.run.record import Revision, StepSummary, check_or_record, read_revision, read_run
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.sources import Source, SourceConfig
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.encode import EncodeConfig
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig, check_select
from pipelines.workflows.curate_steps import CurateSteps
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
from sd_core.model.weights import WeightsError, check_weights

STEPS: Final = ("download", "score", "select", "encode")
RECUTTABLE: Final = frozenset({"select", "encode"})

Say = Callable[[str], None]


class CurateConfig(Config):
    """Everything `jobs/curate.py` can be told; one section for each part of the job."""

    output: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""
    source: SourceConfig
    plan: PlanConfig = PlanConfig()
    rules: RulesConfig = RulesConfig()
    """An old key; `download.rules` takes them now."""
    block: BlockConfig = BlockConfig()
    """An old key; a rule of `download.rules` now."""
    download: DownloadConfig = DownloadConfig()
    image: ImageConfig = ImageConfig()
    caption_facts: CaptionFactsConfig = CaptionFactsConfig()
    score: ScoreConfig | None = None
    """Null: nothing is scored."""
    select: SelectConfig = SelectConfig()
    encode: EncodeConfig | None = None
    """Null: no latent cache."""
    engine: EngineConfig = EngineConfig()
    storage_options: dict[str, str | int | float | bool | dict[str, str] | None] = Field(
        default_factory=dict, repr=False
    )
    """Passed to fsspec for `output`; may hold secrets, so it is never stored."""

    @model_validator(mode="after")
    def _latents_have_whole_sizes(self) -> Self:
        if self.encode is not None and self.image.size % 4:
            raise ValueError(
                f"image.size: {self.image.size} has no latent of a whole size; give a multiple of "
                "the autoencoder's down-sampling (8 for Stable Diffusion's)"
            )
        return self

    @property
    def before_fetch(self) -> BeforeFetch:
        """The rules before the fetch, under whichever keys they are written."""
        old = old_rules(self.rules, self.block)
        new = tuple((f"download.rules.{at}", rule) for at, rule in enumerate(self.download.rules))
        return BeforeFetch(
            rules=old or new,
            storage_options=self.source.storage_options,
            old=None if new else self.rules,
        )

    def old_keys(self) -> Iterator[str]:
        """A line for each old key that is used: what to write instead."""
        rules, block = old_rules(self.rules, BlockConfig()), old_rules(RulesConfig(), self.block)
        for key, found in (("rules", rules), ("block", block)):
            if found:
                yield say_instead(key, "download.rules", found)
        yield from self.select.old_keys()

    @model_validator(mode="after")
    def _rules_have_one_key(self) -> Self:
        given = {"rules": self.rules != RulesConfig(), "block": self.block != BlockConfig()}
        old = [key for key, is_given in given.items() if is_given]
        if old and self.download.rules:
            raise ValueError(
                f"{' and '.join(old)} beside download.rules: old keys and the new one for the same "
                "thing; write all of it in download.rules"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_made(self) -> Self:
        check_scores_are_made(self.select, self.score)
        return self


@dataclass(frozen=True, kw_only=True)
class CurateResult:
    """What the job ends with: the closing table, and shards that were given up."""

    funnel: str
    quarantined: int
    nothing_kept: str | None = None
    """Where every step ran and no row is left: the reasons; None where one is, or it is open."""


def curate(
    config: CurateConfig,
    *,
    steps: Sequence[str],
    say: Say,
    grow: bool = False,
    retry: bool = False,
) -> CurateResult:
    """Run the asked steps of a curate job; those that are complete already are left alone.

    Args:
        grow: Add the list's new files, and rows at the end of planned ones, to a run that has
            begun.
        retry: Fetch again the rows that failed for a reason that can pass.

    Raises:
        ConfigError: the configuration or the asked steps make no sense.
        PlanError, RunMismatchError, EngineError, ShardError, WeightsError: see their messages.
    """
    asked = _check_steps(config, steps)
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
        if is_complete(job, read_revision(store), asked):
            _record(job, steps)
            if not store.exists(CARD_FILE):
                write_card(store)
            say("nothing to do: every asked step is complete")
            return _result(job, read_revision(store), asked)
    source.check_listed()
    check_weights(_weight_needs(config))
    check_models(config.score, config.encode)
    with open_session(store, config.engine, say=say) as session:
        finish_takedown(store, say=say)
        if retry:
            failed = begin_retry(store)
            told = ", ".join(f"{name} {rows:,}" for name, rows in sorted(failed.items()))
            say(f"retry: {told or 'no row failed for a reason that can pass'}")
        plan = _plan(config, store, source, say, grow=grow)
        job = CurateSteps(config, store, source, plan)
        columns = [column.name for column in plan.columns]
        job.rows.rules.check({c.name: c.type for c in plan.columns}, config.caption_facts)
        check_claims(config.select, config.score, columns)
        check_select(
            config.select,
            {column.name: column.type for column in plan.columns},
            storage_options=config.storage_options,
            has_tokens=config.encode is not None,
        )
        _record(job, steps)
        _run(job, session, asked, say)
        write_card(store)
    return _result(job, read_revision(store), asked)


def _known_job(config: CurateConfig, store: RunStore, source: Source, plan: Plan) -> "CurateSteps":
    """The steps of a run that is planned; raises `WeightsError` for all that cannot be had."""
    try:
        return CurateSteps(config, store, source, plan)
    except WeightsError:
        check_weights(_weight_needs(config))
        raise


def _check_steps(config: CurateConfig, steps: Sequence[str]) -> list[str]:
    unknown = [step for step in steps if step not in STEPS]
    if unknown:
        raise ConfigError(f"--steps {','.join(unknown)}: allowed: {', '.join(STEPS)}")
    off = {name for name in ("score", "encode") if getattr(config, name) is None}
    check_named_steps(steps, every=STEPS, off=off)
    return [step for step in STEPS if step in steps and step not in off]


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


def _weight_needs(config: CurateConfig) -> list[Any]:
    needs: list[Any] = []
    if config.score is not None:
        needs += config.score.weight_needs("score")
    if config.encode is not None:
        needs += config.encode.weight_needs("encode")
    return needs


def _record(job: "CurateSteps", steps: Sequence[str]) -> None:
    recut = RECUTTABLE & set(steps) if set(steps) != set(STEPS) else frozenset[str]()
    recorded = read_run(job.store).get("steps", {}).get("download", {})
    is_revised = recorded and recorded["fingerprint"] in job.edition.before
    check_or_record(
        job.store,
        job.identities.values(),
        job={"job": "curate", "config": job.public_config, "models": job.models}
        | describe_program(),
        recut=recut,
        revised=("plan:", "edition.") if is_revised else (),
    )


def _run(job: "CurateSteps", session: Session, asked: list[str], say: Say) -> None:
    require_parents(job, asked)
    cut_before = read_revision(job.store).steps.get("select")
    chain = [step for step in ("download", "score") if step in asked]
    # Images that a retry found again are known only when it has ended.
    for steps in [[step] for step in chain] if job.edition.fetches_again else [chain]:
        _run_chain(job, session, steps, say)
    if "select" in asked:
        session.start("select", shards_total=job.plan.num_shards, shards_done=0)
        job.select().run(session.on_commit)
        complete(job, "select", say=say)
        say_cut_captions(job.store, say)
        _say_difference(job, cut_before, say)
    _run_chain(job, session, [step for step in ("encode",) if step in asked], say)


def _run_chain(job: "CurateSteps", session: Session, chain: Sequence[str], say: Say) -> None:
    """Run steps with workers; none is started where every shard is there, or is taken over."""
    for step in chain:
        adopted, num_shards = job.adopt(step), job.num_shards(step)
        if adopted:
            say(f"{step}: {adopted:,} of {num_shards:,} shards are as they were")
    if any(not job.has_every_shard(step) for step in chain):
        workers = {"download": session.download_resources}
        steps = [job.shard_step(s, workers.get(s, session.model_resources)) for s in chain]
        session.run(steps, num_shards=job.num_shards(chain[0]))
    for step in chain:
        complete(job, step, say=say)


def _say_difference(job: "CurateSteps", before: StepSummary | None, say: Say) -> None:
    now = job.identities["select"].fingerprint
    if before is None or before.fingerprint == now:
        return
    num_shards = min(before.num_shards, job.plan.num_shards)
    say(f"{compare_cuts(job.store, before=before.fingerprint, now=now, num_shards=num_shards)}")


def _result(job: "CurateSteps", revision: Revision, asked: Sequence[str]) -> CurateResult:
    return CurateResult(
        funnel=funnel_table(job.plan.num_rows, funnel_of(revision, "download")),
        quarantined=sum(len(summary.quarantined) for summary in revision.steps.values()),
        nothing_kept=(
            describe_nothing_kept(revision.steps, last=list(job.identities)[-1])
            if set(asked) >= job.identities.keys()
            else None
        ),
    )
