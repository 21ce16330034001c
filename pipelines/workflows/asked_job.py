"""What curate and generate both do with a command: refuse what can be refused, plan, run."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Generic, TypedDict, TypeVar

from pipelines.engine.session import open_session
from pipelines.plan import allows_more, refuse_growth
from pipelines.plan.record import PLAN_PATH
from pipelines.report.card import is_current, write_card
from pipelines.report.page import renew_report
from pipelines.revisions.begin import Retry, plan_retry
from pipelines.revisions.readers import is_shown
from pipelines.revisions.takedown import finish_takedown
from pipelines.rules.tombstones import is_unfinished
from pipelines.run.amendments import Amendments
from pipelines.run.folder import check_output
from pipelines.run.record import read_revision
from pipelines.run.recorded_options import MayChange, check_or_record, check_recorded
from pipelines.run.store import RunStore
from pipelines.run.versions import describe_program
from pipelines.sources import Source
from pipelines.workflows.crops import refuse_more_without_crops, refuse_without_crops
from pipelines.workflows.job import (
    JobResult,
    asked_steps,
    check_together,
    require_named,
    require_parents,
    result_of,
    run_steps,
)
from pipelines.workflows.job_config import JobConfig
from pipelines.workflows.run_steps import AnyPlan, RunSteps
from sd_core.model.weights import WeightsError, check_weights
from sd_core.say import Say

ConfigT = TypeVar("ConfigT", bound=JobConfig)
PlanT = TypeVar("PlanT", bound=AnyPlan)
StepsT = TypeVar("StepsT", bound=RunSteps)


class Asked(TypedDict, total=False):
    """What a command asks for beside the configuration.

    Attributes:
        steps: By name; all by default.
        grow: Add what is new in the list to a run that has begun: new files, and rows at the end
            of planned ones.
        retry: Make again the shards that any step gave up; a curation also fetches again the rows
            that failed for a reason that can pass.
        limit: Only so many rows of the list, its first; a later call goes on with the others.
    """

    steps: Sequence[str]
    grow: bool
    retry: bool
    limit: int | None


class AskedJob(ABC, Generic[ConfigT, PlanT, StepsT]):
    """A job of committed steps as a command asks for it.

    Args:
        store: The run, or a draft of it.
        steps, grow, retry, limit: Of `Asked`.

    Raises:
        ConfigError: two things are asked for that are done one by one.
    """

    name: ClassVar[str]
    """As run.json has it."""
    downloads: ClassVar[bool]
    """Whether there are download workers beside those with models."""

    def __init__(
        self,
        config: ConfigT,
        store: RunStore,
        *,
        steps: Sequence[str] = (),
        grow: bool = False,
        retry: bool = False,
        limit: int | None = None,
        say: Say,
    ) -> None:
        self.config, self.store, self.say = config, store, say
        self.named, self.grow, self.retry, self.limit = steps, grow, retry, limit
        check_together(grow=grow, retry=retry, limit=limit)

    @property
    @abstractmethod
    def source(self) -> Source:
        """The list."""

    @abstractmethod
    def load(self) -> PlanT:
        """The plan that the run has."""

    @abstractmethod
    def plan(self) -> PlanT:
        """The run's plan, made, grown or gone on with as it is asked for."""

    @abstractmethod
    def gets_more(self, before: PlanT) -> bool:
        """Whether a run of the list's first rows goes on; raises `ConfigError` where it has more
        than are asked for."""

    @abstractmethod
    def steps_of(self, plan: PlanT, amendments: Amendments | None) -> StepsT:
        """The run's steps; raises `WeightsError` where a tokenizer cannot be had."""

    @abstractmethod
    def check_models(self) -> None:
        """Raise what models and files beside the list are refused for; all weights are there."""

    @abstractmethod
    def check_planned(self, known: StepsT) -> None:
        """Raise `ConfigError` where the configuration does not go with what was planned."""

    @abstractmethod
    def may_change(self, made: StepsT, *, grows: bool) -> MayChange:
        """What a re-cut, a retry, a growth or a takedown may have changed of recorded options."""

    def check_plan(self, plan: PlanT) -> None:
        """Raise `PlanError` where the run's plan is not of this list."""

    def is_idle(self, known: StepsT, *, renews: bool) -> bool:
        """Whether nothing is left to do, and that can be told before the plan is made anew."""
        return False

    def leave_word(self) -> None:
        """Tell other runs that this one is about to use them."""

    def renews(self, *, grows: bool) -> bool:
        """Whether all steps after the first are made anew."""
        return grows

    @cached_property
    def asked(self) -> list[str]:
        """The steps, in order."""
        return asked_steps(self.named, origin=self.config.origin, off=self._off)

    @cached_property
    def _off(self) -> set[str]:
        return self.config.steps_left_out(self.store)

    def run(self) -> JobResult:
        """Run the asked steps; those that are complete already are left alone."""
        known = self.check()
        if known is not None:
            self._record(known, grows=False)
            return self._end(known, is_done=True)
        with open_session(
            self.store, self.config.engine, say=self.say, downloads=self.downloads
        ) as session:
            finish_takedown(self.store, say=self.say)
            made = self.begin()
            is_done = self.is_done(made)
            if not is_done:
                self.leave_word()
                run_steps(made, session, self.asked, self.say)
            return self._end(made, is_done=is_done)

    def check(self) -> StepsT | None:
        """Raise all that can be refused before anything is written; the run's steps where nothing
        is left to do."""
        for line in self.config.old_keys():
            self.say(line)
        check_output(self.store, job=self.name)
        retries = self.retry and not is_unfinished(self.store)
        again = self.plan_retry().amendments if retries else None
        grows, known = self.grows(), None
        if self.is_planned:
            before = self.load()
            self.check_plan(before)
            known = self._known(before, again)
            if self.is_idle(known, renews=self.renews(grows=grows)):
                return known
        self.refuse(known, grows=grows)
        return None

    def refuse(self, known: StepsT | None, *, grows: bool) -> None:
        """Raise what a job with something left to do is refused for.

        Args:
            known: The steps of a run that is planned.
            grows: Whether its plan gets further rows.
        """
        self.source.check_listed()
        check_weights(self.config.weight_needs())
        self.check_models()
        renews = self.renews(grows=grows)
        if known is None or renews:
            is_anew = renews and known is not None
            require_named(self.asked, origin=self.config.origin, off=self._off, renews=is_anew)
        if known is not None:
            self.check_planned(known)
            changes = self.may_change(known, grows=grows)
            check_recorded(self.store, known.identities.values(), **changes)
            if not renews and not is_unfinished(self.store):
                require_parents(known, self.asked)

    def plan_unchecked(self) -> PlanT:
        """The plan where models are to be fetched before all can be checked."""
        check_output(self.store, job=self.name)
        self.source.check_listed()
        if self.is_planned:
            self.check_plan(self.load())
        return self.plan()

    def begin(self) -> StepsT:
        """Plan, or grow the plan, and record what is asked for."""
        grows = self.grows()
        plan = self.plan()
        amendments = None
        if self.retry:
            again = self.plan_retry()
            amendments = again.amendments
            self.say(f"retry: {again.told}")
        made = self.steps_of(plan, amendments)
        refuse_without_crops(made, self.asked)
        self._record(made, grows=grows)
        return made

    @property
    def is_planned(self) -> bool:
        return self.store.exists(PLAN_PATH)

    def is_done(self, made: StepsT) -> bool:
        """Whether every asked step is complete, and shown."""
        return made.is_complete(read_revision(self.store), self.asked) and is_shown(self.store)

    def grows(self) -> bool:
        """Whether the run's plan gets further rows; raises `ConfigError` where it may not."""
        if not self.is_planned:
            return False
        before = self.load()
        if self.grow:
            refuse_growth(before.limit)
        more = self.gets_more(before)
        is_asked = self.config.origin in self.asked
        more = allows_more(more, self.limit, retry=self.retry, is_asked=is_asked)
        refuse_more_without_crops(self.store, grows=self.grow or more)
        return self.grow or more

    def plan_retry(self) -> Retry:
        """What a retry makes again; raises `ConfigError` where the first step is not complete."""
        return plan_retry(self.store, origin=self.config.origin)

    def _known(self, plan: PlanT, again: Amendments | None) -> StepsT:
        try:
            return self.steps_of(plan, again)
        except WeightsError:
            check_weights(self.config.weight_needs())  # raises for all that cannot be had
            raise

    def _record(self, made: StepsT, *, grows: bool) -> None:
        models = self.config.describe_models()
        told = {"job": self.name, "config": made.public_config, "models": models}
        check_or_record(
            self.store,
            made.identities.values(),
            job=told | describe_program(),
            begin=made.begin,
            **self.may_change(made, grows=grows),
        )

    def _end(self, made: StepsT, *, is_done: bool) -> JobResult:
        if is_done:
            self.say("nothing to do: every asked step is complete")
        if not is_done or not is_current(self.store):
            write_card(self.store, made.known)
        renew_report(self.store, self.say)
        return result_of(made, self.asked)
