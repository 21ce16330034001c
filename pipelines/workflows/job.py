"""What every job of committed steps does: check what is asked, run, complete, say how it ended."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from pipelines.config import ConfigError
from pipelines.engine.chain import QuarantineError
from pipelines.engine.progress import funnel_table
from pipelines.engine.session import Session
from pipelines.report.captions import say_cut_captions
from pipelines.revisions.difference import compare_cuts
from pipelines.revisions.readers import show_revision
from pipelines.run.funnel import funnel_of
from pipelines.run.processors import describe_mixture
from pipelines.run.record import Revision, StepSummary, complete_step, read_revision
from pipelines.steps.kinds import STEP_KINDS, kinds_of, later_steps, recut_kinds
from pipelines.workflows.run_steps import RunSteps
from sd_core.say import Say

_TOLD_REASONS = 3
MAKE_AGAIN: Final = "the same command with --retry makes them again"


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a job ends with: the closing table, and shards that were given up."""

    funnel: str
    quarantined: int
    nothing_kept: str | None = None
    """Where every step ran and no row is left: the reasons; None where one is, or it is open."""


def asked_steps(steps: Sequence[str], *, origin: str, off: Collection[str]) -> list[str]:
    """The steps that are asked for (all where none is named), in order, without those that the
    configuration leaves out.

    Raises:
        ConfigError: one is unknown, or asked for by name though it is left out.
    """
    every = tuple(kind.name for kind in kinds_of(origin))
    if not steps:
        return [step for step in every if step not in off]
    if unknown := [step for step in steps if step not in every]:
        raise ConfigError(f"--steps {','.join(unknown)}: allowed: {', '.join(every)}")
    if (named := [step for step in steps if step in off]) and set(steps) != set(every):
        raise ConfigError(
            f"--steps {','.join(named)}: null in the configuration, or newer than the run; "
            "configure it, or leave it out"
        )
    along = {k.name for k in kinds_of(origin) if k.is_default and k.parents[-1] in steps}
    return [step for step in every if step in {*steps, *along} and step not in off]


def check_together(*, grow: bool, retry: bool, limit: int | None) -> None:
    """Raise `ConfigError` where a command asks for two things that are done one by one."""
    if grow and retry:
        raise ConfigError("--grow and --retry: give one, then the other")
    if grow and limit is not None:
        raise ConfigError(
            "--grow and --limit: a run of a list's first rows goes on by the same command without "
            "--limit, or with a larger one; give one of them"
        )


def recut_steps(steps: Sequence[str], *, origin: str) -> frozenset[str]:
    """Of the steps that were asked for by name, those whose options may change."""
    is_all = set(steps) >= {kind.name for kind in kinds_of(origin) if kind.config is None}
    return frozenset() if is_all else recut_kinds() & set(steps)


def run_steps(job: RunSteps, session: Session, asked: Sequence[str], say: Say) -> None:
    """Run the asked steps to their end and make each current.

    Raises:
        ConfigError: a parent is neither asked for nor complete.
        QuarantineError, EngineError, ShardError: see their messages.
    """
    require_parents(job, asked)
    session.keep = job.keep
    cut_before = read_revision(job.store).steps.get("select")
    for chain in job.chains(asked):
        if chain == ["select"]:
            session.start("select", shards_total=job.num_shards("select"), shards_done=0)
            session.persist("select", lambda: job.select(say).run(session.on_commit))
            session.persist("select", lambda: complete(job, "select", say=say))
            say_cut_captions(job.committed("select"), say)
            _say_difference(job, cut_before, say)
        else:
            _run_chain(job, session, chain, say)
    session.persist("lists", lambda: show_revision(job.store))


def _run_chain(job: RunSteps, session: Session, chain: Sequence[str], say: Say) -> None:
    """Run steps with workers; none is started where every shard is there, or is taken over."""
    for step in chain:
        adopted, num_shards = job.adopt(step), job.num_shards(step)
        if adopted:
            say(f"{step}: {adopted:,} of {num_shards:,} shards are as they were")
    done = [job.committed(step).begin() for step in chain]
    if any(len(there) < job.num_shards(step) for step, there in zip(chain, done, strict=True)):
        cpu, gpu = session.download_resources, session.model_resources
        steps = [job.shard_step(s, gpu if STEP_KINDS[s].loads_models else cpu) for s in chain]
        session.run(steps, num_shards=job.num_shards(chain[0]), done=done)
    for step in chain:
        session.persist(step, partial(complete, job, step, say=say))


def _say_difference(job: RunSteps, before: StepSummary | None, say: Say) -> None:
    now = job.identities["select"].fingerprint
    if before is None or before.fingerprint == now:
        return
    num_shards = min(before.num_shards, job.num_shards("select"))
    say(f"{compare_cuts(job.store, before=before.fingerprint, now=now, num_shards=num_shards)}")


def result_of(job: RunSteps, asked: Sequence[str]) -> JobResult:
    """What the job ends with, by the present revision."""
    revision = read_revision(job.store)
    is_whole = set(asked) >= job.identities.keys()
    return JobResult(
        funnel=funnel_table(job.plan.num_rows, funnel_of(revision, job.origin)),
        quarantined=sum(len(summary.quarantined) for summary in revision.steps.values()),
        nothing_kept=describe_nothing_kept(revision, origin=job.origin, last=job.configured()[-1])
        if is_whole
        else None,
    )


def require_named(asked: Sequence[str], *, origin: str, off: Collection[str], renews: bool) -> None:
    """Raise `ConfigError` where a step is asked for without one that it is made from, in a run
    that has none yet, or (`renews`) whose every step a growth or a retry makes anew."""
    made = [kind.name for kind in kinds_of(origin) if kind.name not in off]
    for step in asked:
        for parent in STEP_KINDS[step].parents:
            if parent in made and parent not in asked:
                why = "a growth or a retry makes it anew; name it" if renews else "run it first"
                raise ConfigError(f"--steps {step}: {parent} is not complete; {why}")


def require_parents(job: RunSteps, asked: Sequence[str]) -> None:
    """Raise `ConfigError` where a step is asked for whose parents are neither asked nor complete.

    Raises:
        QuarantineError: a parent lost more shards than the configuration allows.
    """
    revision = read_revision(job.store)
    for step in asked:
        for parent in job.parents(step):
            if parent in asked:
                continue
            if not job.is_complete(revision, [parent]):
                raise ConfigError(f"--steps {step}: {parent} is not complete; run it first")
            check_quarantine(job, parent, revision.steps[parent])


def complete(job: RunSteps, step: str, *, say: Say) -> None:
    """Make a step that has run current; raises `QuarantineError` as `check_quarantine` does."""
    before = read_revision(job.store).number
    summary = complete_step(
        job.store,
        job.identities[step],
        num_shards=job.num_shards(step),
        folders=STEP_KINDS[step].paths,
        later=later_steps(step),
        publish=lambda: job.publish(step),
        made=job.committed(step),
    )
    check_quarantine(job, step, summary)
    if read_revision(job.store).number != before:
        say(f"{step}: complete, {summary.kept:,} of {summary.rows_in:,} rows kept")
        folder = job.committed(step).folder
        names = [path.rpartition("/")[2] for path in summary.digests if path.startswith(folder)]
        if mixture := describe_mixture(job.store, folder, what=step, names=names):
            say(mixture)


def describe_nothing_kept(revision: Revision, *, origin: str, last: str) -> str | None:
    """Why no row of a list is left, its commonest reasons first; None where one is.

    Args:
        revision: Of a run whose steps are complete; the ledger counts every row.
        origin: The step that makes the run's images.
        last: The last one, by whose count rows are kept.
    """
    if revision.steps[last].kept:
        return None
    funnel = funnel_of(revision, origin)
    dropped = sum((Counter(step.dropped) for _, step in funnel), Counter[str]())
    total = revision.steps["select"].rows_in
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} of {total:,} rows: {reason}" for reason, count in ordered[:_TOLD_REASONS]]
    told += ["..."] if len(ordered) > _TOLD_REASONS else []
    return f"nothing was kept: {'; '.join(told)}"


def check_quarantine(job: RunSteps, step: str, summary: StepSummary) -> None:
    """Raise `QuarantineError` where more shards were given up than the configuration allows."""
    allowed = job.config.engine.max_quarantined_shards
    if len(summary.quarantined) > allowed:
        raise QuarantineError(
            f"{step}: {len(summary.quarantined)} shard(s) are quarantined (the first: "
            f"{summary.quarantined[0]}; its manifest has the error) and "
            f"engine.max_quarantined_shards is {allowed}; later steps were not "
            f"run: mend the cause, then {MAKE_AGAIN}"
        )
