"""The base under curate's and generate's steps: what follows from the table of steps alone."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from pipelines.redact import redact_config
from pipelines.revisions.adopt import adopt_made, adopt_shards
from pipelines.run.amendments import OPTION, Amendments, read_amendments, write_amendments
from pipelines.run.cache_files import publish_cache
from pipelines.run.committed import Committed
from pipelines.run.manifest import Manifest
from pipelines.run.record import Revision, StepIdentity, read_run
from pipelines.run.shard_inputs import score_inputs
from pipelines.run.store import RunStore
from pipelines.steps.kind import StepContext
from pipelines.steps.kinds import STEP_KINDS, kinds_of
from pipelines.steps.score import ScoreStep
from pipelines.steps.select import Select, input_digests
from pipelines.steps.select.recaptions import CaptionFiles
from pipelines.steps.select.tokens import token_identity
from pipelines.steps.step import Resources, ShardStep
from pipelines.workflows.checks import further_columns
from pipelines.workflows.job_config import JobConfig
from sd_core.model.caption_tokenizer import CaptionTokenizer
from sd_core.say import Say


class AnyPlan(Protocol):
    """A plan of rows or of prompts."""

    @property
    def num_rows(self) -> int: ...
    @property
    def num_shards(self) -> int: ...
    @property
    def limit(self) -> int | None: ...


class RunSteps(ABC):
    """The steps of one run.

    Attributes:
        identities: Step name to what decides its result; only steps that are configured, in order.
        amendments: Those of the run, or those that a retry is about to make.
    """

    def __init__(
        self,
        config: JobConfig,
        store: RunStore,
        plan: AnyPlan,
        *,
        amendments: Amendments | None = None,
    ) -> None:
        if config.score is not None:
            score = config.score.of_run(_recorded_score(store))
            config = config.model_copy(update={"score": score})
        self.store = store
        stored = read_amendments(store)
        self.amendments = stored if amendments is None else amendments
        self._begins = self.amendments != stored
        self.origin = config.origin
        """The step that makes the run's images."""
        self.config, self.plan = config, plan
        self.identities: dict[str, StepIdentity] = {}
        self._committed: dict[str, Committed] = {}
        for step in self.configured():
            parents = [self.identities[name].fingerprint for name in self.parents(step)]
            amended = self.amendments.identity(step, is_first=step == self.origin)
            options = {**self._options(step), **amended}
            self.identities[step] = StepIdentity(
                step=step, options=redact_config(options), parents=tuple(parents)
            )

    @abstractmethod
    def options(self, step: str) -> Mapping[str, Any]:
        """Everything that can change the result of one of the job's own steps, its parents aside;
        empty for a step that has none."""

    @abstractmethod
    def own_step(self, step: str, resources: Resources) -> ShardStep:
        """One of the job's own steps, score aside, as the engine runs it."""

    @abstractmethod
    def read_rows(self, shard_id: int) -> pa.Table:
        """Rows of a shard that was given up, as select records them."""

    @property
    @abstractmethod
    def token_counter(self) -> CaptionTokenizer | None:
        """By which select counts captions; None: they are not counted."""

    @property
    @abstractmethod
    def cache_sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of the images that encode takes; empty: whatever there is."""

    @property
    def public_config(self) -> dict[str, Any]:
        """The resolved configuration for run.json, without secrets."""
        return redact_config(self.config.model_dump(mode="json"))

    def configured(self) -> list[str]:
        """The steps that the configuration asks for, in order."""
        off = self.config.steps_left_out(self.store)
        return [kind.name for kind in kinds_of(self.origin) if kind.name not in off]

    def parents(self, step: str) -> Sequence[str]:
        """The steps whose results this one reads."""
        chain = self.configured()
        return [parent for parent in STEP_KINDS[step].parents if parent in chain]

    def num_shards(self, step: str) -> int:
        """How many shards the step has: the plan's, unless it says otherwise."""
        return self.plan.num_shards

    def committed(self, step: str) -> Committed:
        """What the step has committed with its present options."""
        if step not in self._committed:
            fingerprint = self.identities[step].fingerprint
            self._committed[step] = Committed(self.store, step, fingerprint)
        return self._committed[step]

    @property
    def known(self) -> Collection[Committed]:
        """The steps that this job has looked at."""
        return self._committed.values()

    def keep(self, manifest: Manifest) -> None:
        """Take a commit of this job into the commit log."""
        self.committed(manifest.step).log.add(manifest)

    def has_every_shard(self, step: str) -> bool:
        """Whether nothing is left to do for a step."""
        return len(self.committed(step).begin()) >= self.num_shards(step)

    def is_complete(self, revision: Revision, asked: Collection[str]) -> bool:
        """Whether every asked step is complete with the present options, over all of its shards."""
        return all(
            step in revision.steps
            and revision.steps[step].fingerprint == self.identities[step].fingerprint
            and revision.steps[step].num_shards == self.num_shards(step)
            for step in asked
        )

    def inputs(self, step: str, shard_id: int) -> str | None:
        """What a shard of the step would be made from; None where that is not known yet."""
        kind = STEP_KINDS[step]
        if kind.inputs is not None:
            return kind.inputs(self._context(step, Resources()), shard_id)
        if step != "score":
            return None
        options = self.identities["score"].options_digest
        return score_inputs(self.committed(self.origin), options=options, shard=shard_id)

    def adopt(self, step: str) -> int:
        """Take over what an earlier revision made from the same; returns how many shards."""
        adopted = sum(
            adopt_made(self.committed(step), before=each.fingerprint)
            for each in self._before_lifts(step)
        )
        kind = STEP_KINDS[step]
        if kind.taken_over != "inputs":
            return adopted
        told: dict[str, Any] = {}
        if kind.is_same is not None:
            told["is_same"] = partial(kind.is_same, self._context(step, Resources()))
        return adopted + adopt_shards(
            self.committed(step),
            shard_ids=range(self.num_shards(step)),
            inputs_of=partial(self.inputs, step),
            **told,
        )

    def begin(self) -> None:
        """Have the run be amended, where a retry begins; before anything else is written."""
        if self._begins:
            write_amendments(self.store, self.amendments)

    def _before_lifts(self, step: str) -> Iterator[StepIdentity]:
        """Each identity that the step had before it made again what it gave up."""
        identity = self.identities[step]
        for times in reversed(range(self.amendments.lifted.get(step, 0))):
            options = {name: value for name, value in identity.options.items() if name != OPTION}
            is_first = step == self.origin
            options |= self.amendments.identity(step, is_first=is_first, times=times)
            yield replace(identity, options=options)

    def chains(self, asked: Sequence[str]) -> list[list[str]]:
        """The asked steps with workers that run shard by shard beside each other; one by one where
        both would want the GPUs."""
        return [[step] for step in asked]

    def publish(self, step: str) -> None:
        """Write what readers find beside the step's files, when it is complete."""
        if step == "encode":
            publish_cache(self.committed(step))

    @property
    def captions(self) -> CaptionFiles | None:
        """Captions from elsewhere; None where the list's own are all."""
        return None

    def select(self, say: Say) -> Select:
        """The select step, which the driver itself runs."""
        return Select(
            store=self.store,
            fingerprint=self.identities["select"].fingerprint,
            config=self.config.select,
            num_shards=self.plan.num_shards,
            images=self.committed(self.origin),
            score=self.committed("score") if "score" in self.identities else None,
            read_rows=self.read_rows,
            token_counter=self.token_counter,
            cache_sizes=self.cache_sizes,
            further=further_columns(self.config.score, has_captions=self.captions is not None),
            captions=self.captions,
            say=say,
        )

    def shard_step(self, step: str, resources: Resources) -> ShardStep:
        """The step as the engine runs it."""
        if step == "score":
            return self._score_step(resources)
        build = STEP_KINDS[step].build
        if build is None:
            return self.own_step(step, resources)
        return build(self._context(step, resources))

    def _context(self, step: str, resources: Resources) -> StepContext:
        return StepContext(
            store=self.store,
            options=self.config.steps[step],
            fingerprint=self.identities[step].fingerprint,
            options_digest=self.identities[step].options_digest,
            images=self.committed(self.origin),
            committed={name: self.committed(name) for name in self.identities if name != step},
            torch_threads=self.config.engine.torch_threads,
            resources=resources,
        )

    def _options(self, step: str) -> Mapping[str, Any]:
        if step == "score":
            assert self.config.score is not None
            return {"score": self.config.score.identity(), **self.threads()}
        if step in self.config.steps:
            section = self.config.steps[step]
            threads = self.threads() if STEP_KINDS[step].loads_models else {}
            return {step: section.model_dump(mode="json"), **threads}
        return self.options(step)

    def _score_step(self, resources: Resources) -> ScoreStep:
        config = self.config.score
        assert config is not None
        return ScoreStep(
            self.store,
            fingerprint=self.identities["score"].fingerprint,
            images=self.committed(self.origin),
            config=config,
            options_digest=self.identities["score"].options_digest,
            torch_threads=self.config.engine.torch_threads,
            resources=resources,
        )

    def select_options(self) -> dict[str, Any]:
        config = self.config.select
        files = input_digests(config, self.config.storage_options)
        return {
            "select": config.identity(),
            **({"files": files} if files else {}),
            **token_identity(self.token_counter),
            **({} if self.captions is None else {"captions": self.captions.identity()}),
        }

    def threads(self) -> dict[str, Any]:
        """The option by which torch's threads change the last bit."""
        return {"torch_threads": self.config.engine.torch_threads}


def _recorded_score(store: RunStore) -> Mapping[str, Any]:
    """The options by which the run's score was begun; empty where it was not."""
    score = read_run(store).get("steps", {}).get("score", {})
    options: Mapping[str, Any] = score.get("options", {}).get("score", {})
    return options
