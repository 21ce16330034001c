"""What every job of committed steps does: check parents, complete steps, refuse many losses."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from pipelines.config import ConfigError
from pipelines.engine.chain import QuarantineError
from pipelines.rows.claims import CLAIMED_SCORES
from pipelines.run.processors import describe_mixture
from pipelines.run.record import Revision, StepIdentity, StepSummary, complete_step, read_revision
from pipelines.run.store import RunStore
from pipelines.steps.encode import EncodeConfig
from pipelines.steps.score import ScoreConfig, all_score_columns
from pipelines.steps.select import SelectConfig
from pipelines.steps.select.columns import is_numeric
from sd_core.model.autoencoder_loading import autoencoder_settings
from sd_core.model.clip import load_clip_tokenizer
from sd_core.model.text_encoder import text_encoder_settings

Say = Callable[[str], None]
_TOLD_REASONS = 3


class JobSteps(Protocol):
    """The steps of one run."""

    @property
    def store(self) -> RunStore: ...

    @property
    def identities(self) -> Mapping[str, StepIdentity]: ...

    @property
    def max_quarantined_shards(self) -> int: ...

    def parents(self, step: str) -> Sequence[str]: ...

    def folders(self, step: str) -> Iterable[str]: ...

    def num_shards(self, step: str) -> int: ...

    def publish(self, step: str) -> None:
        """Write what readers find beside the step's files."""


def check_scores_are_made(select: SelectConfig, score: ScoreConfig | None) -> None:
    """Raise `ValueError` where select goes by a score that nothing makes.

    Scores that the list may bring along are left to `check_claims`, which knows its columns.
    """
    made = made_scores(score)
    known = all_score_columns().keys() - CLAIMED_SCORES.keys()
    for where, name in select.columns_needed():
        if name in known and name not in made:
            raise ValueError(
                f"select.{where}: nothing in `score` makes {name}; configure it, or use "
                f"source_{name} where the list has it"
            )
    try:
        select.check_thresholds(name for name, kind in made.items() if is_numeric(kind))
    except ValueError as error:
        raise ValueError(f"select.{error}") from None
    if select.copies.needs_embeddings and not (score is not None and score.embeddings):
        raise ValueError("select.duplicates: set score.embeddings: true to compare embeddings")


def made_scores(score: ScoreConfig | None) -> dict[str, pa.DataType]:
    """The ledger's columns that the configured scorers make, and their types."""
    return {} if score is None else {column.name: column.type for column in score.columns()}


def further_scores(score: ScoreConfig | None) -> tuple[pa.Field, ...]:
    """Of these, the columns that runs without such a scorer do not have."""
    return () if score is None else score.further_columns()


def check_models(score: ScoreConfig | None, encode: EncodeConfig | None = None) -> None:
    """Hold what local models' files say against what is honoured, before a worker loads one.

    Raises:
        WeightsError: naming the file, the key and what is allowed.
    """
    if score is not None and score.clip is not None and score.clip.is_folder:
        load_clip_tokenizer(score.clip)
    if encode is not None:
        autoencoder_settings(encode.autoencoder)
        text_encoder_settings(encode.text_encoder)


def check_claims(
    select: SelectConfig, score: ScoreConfig | None, source_columns: Container[str]
) -> None:
    """Raise `ConfigError` where select goes by a score that neither the list nor a head has."""
    made = made_scores(score)
    for where, name in select.columns_needed():
        source = CLAIMED_SCORES.get(name)
        if source is not None and source not in source_columns and name not in made:
            raise ConfigError(
                f"select.{where}: the list has no column {source.removeprefix('source_')}, and "
                f"nothing in `score` makes {name}"
            )


def check_named_steps(steps: Sequence[str], *, every: Sequence[str], off: set[str]) -> None:
    """Raise `ConfigError` where a step is asked for by name that the configuration leaves out."""
    named = [step for step in steps if step in off]
    if named and set(steps) != set(every):
        raise ConfigError(
            f"--steps {','.join(named)}: null in the configuration; configure it, or leave it out"
        )


def is_complete(job: JobSteps, revision: Revision, asked: Iterable[str]) -> bool:
    """Whether every asked step is complete with the present options, over all of its shards."""
    return all(
        step in revision.steps
        and revision.steps[step].fingerprint == job.identities[step].fingerprint
        and revision.steps[step].num_shards == job.num_shards(step)
        for step in asked
    )


def require_parents(job: JobSteps, asked: Sequence[str]) -> None:
    """Raise `ConfigError` where a step is asked for whose parents are neither asked nor complete.

    Raises:
        QuarantineError: a parent lost more shards than the configuration allows.
    """
    revision = read_revision(job.store)
    for step in asked:
        for parent in job.parents(step):
            if parent in asked:
                continue
            if not is_complete(job, revision, [parent]):
                raise ConfigError(f"--steps {step}: {parent} is not complete; run it first")
            check_quarantine(job, parent, revision.steps[parent])


def complete(job: JobSteps, step: str, *, say: Say) -> None:
    """Make a step that has run current; raises `QuarantineError` as `check_quarantine` does."""
    before = read_revision(job.store).number
    summary = complete_step(
        job.store,
        job.identities[step],
        num_shards=job.num_shards(step),
        folders=job.folders(step),
        publish=lambda: job.publish(step),
    )
    check_quarantine(job, step, summary)
    if read_revision(job.store).number != before:
        say(f"{step}: complete, {summary.kept:,} of {summary.rows_in:,} rows kept")
        records = f"manifests/{step}/{summary.fingerprint}"
        if mixture := describe_mixture(job.store, records, what=step):
            say(mixture)


def describe_nothing_kept(steps: Mapping[str, StepSummary], *, last: str) -> str | None:
    """Why no row of a list is left, its commonest reasons first; None where one is.

    Args:
        steps: Those that are complete; the ledger counts every row.
        last: The last one, by whose count rows are kept.
    """
    if steps[last].kept:
        return None
    dropped = Counter(steps["select"].dropped)
    if last != "select":
        dropped += Counter(steps[last].dropped)
    total = steps["select"].rows_in
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} of {total:,} rows: {reason}" for reason, count in ordered[:_TOLD_REASONS]]
    told += ["..."] if len(ordered) > _TOLD_REASONS else []
    return f"nothing was kept: {'; '.join(told)}"


def check_quarantine(job: JobSteps, step: str, summary: StepSummary) -> None:
    """Raise `QuarantineError` where more shards were given up than the configuration allows."""
    if len(summary.quarantined) > job.max_quarantined_shards:
        raise QuarantineError(
            f"{step}: {len(summary.quarantined)} shard(s) are quarantined (the first: "
            f"{summary.quarantined[0]}; its manifest has the error) and "
            f"engine.max_quarantined_shards is {job.max_quarantined_shards}; later steps were not "
            "run"
        )
