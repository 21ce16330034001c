"""A plan of a list's first rows (`--limit`): whether it is gone on with, and how."""

from collections.abc import Callable

from pipelines.config import ConfigError
from pipelines.plan.make import BeforeStore, PlanConfig, make_plan
from pipelines.plan.record import Plan
from pipelines.run.draft_store import DraftStore
from pipelines.run.store import RunStore
from pipelines.sources.source import Source


def is_to_go_on(planned: int | None, *, num_rows: int, limit: int | None) -> bool:
    """Whether a planned run gets further rows of its list.

    Args:
        planned: After how many rows its plan ends; None where it has the whole list.
        num_rows: Of the list, as far as it is planned.
        limit: After how many rows it is to end now; None: it is to have all.

    Raises:
        ConfigError: it has more already.
    """
    has = num_rows if planned is None else planned
    if limit is not None and limit < has:
        told = f"all {has:,} rows of its list" if planned is None else f"the first {has:,} rows"
        raise ConfigError(
            f"--limit {limit}: the run has {told} already; leave it out, or give another `output`"
        )
    return planned is not None and limit != planned


def allows_more(more: bool, limit: int | None, *, retry: bool, is_asked: bool) -> bool:
    """Whether a run that has not all rows gets `more` now: a retry makes again those that it has,
    and further ones begin with the first step.

    Raises:
        ConfigError: a `limit` asks for them.
    """
    allows = is_asked and not retry
    if more and not allows and limit is not None:
        raise ConfigError(f"--limit {limit}: further rows come without --retry and --steps")
    return more and allows


def refuse_growth(planned: int | None) -> None:
    """Raise `ConfigError` where a run that is to grow lacks rows that its list always had."""
    if planned is not None:
        raise ConfigError(
            f"--grow: the run has the first {planned:,} rows of its list; the same command without "
            "--grow adds the others"
        )


def go_on(
    before: Plan,
    source: Source,
    config: PlanConfig,
    *,
    store: RunStore,
    limit: int | None,
    before_store: BeforeStore,
    begin: Callable[[bool], None],
) -> Plan:
    """The plan of more rows of the same list, as it were without the shorter one before it.

    Args:
        begin: Called before anything is written; told whether each shard that `before` has whole
            is the same, so that it can be taken over. It is not where the rows behind them widen
            the type of a column, or bring another.
    """
    draft = DraftStore.over(store)
    plan = make_plan(source, config, store=draft, limit=limit, before_store=before_store)
    whole = before.num_shards - (before.uncut_rows is not None)
    ours, theirs = (each.shards.slice(0, whole) for each in (before, plan))
    begin(before.columns == plan.columns and ours.equals(theirs) and _readers(before, plan))
    draft.publish(store)
    return plan


def _readers(before: Plan, now: Plan) -> bool:
    """Whether the same version of the readers told the rows of both apart."""
    return {file.reader for file in before.files} <= {file.reader for file in now.files}
