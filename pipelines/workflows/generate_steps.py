"""From a generation's configuration to its steps: fingerprints, workers, folders, parents."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.prompts import PromptPlan, expand_rows, read_prompts
from pipelines.redact import redact_config
from pipelines.run.cache_files import publish_cache, read_recorded
from pipelines.run.manifest import ShardError
from pipelines.run.option_changes import describe_changes
from pipelines.run.record import StepIdentity, read_run
from pipelines.run.store import RunStore
from pipelines.steps.encode import StoredLatentsStep
from pipelines.steps.generate import LATENTS_FOLDER, GenerateStep
from pipelines.steps.score import ScoreStep
from pipelines.steps.select import Select, input_digests
from pipelines.steps.select.tokens import TOKENS_OPTION, token_identity
from pipelines.steps.step import Resources, ShardStep
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.job import further_scores
from sd_core.model.caption_tokenizer import load_caption_tokenizer
from sd_core.model.latent_diffusion_config import first_text_encoder

_FOLDERS = {
    "generate": ("images", "facts/generate", "metadata", LATENTS_FOLDER),
    "score": ("facts/score", "facts/score/rejects"),
    "select": ("ledger",),
    "encode": ("latents", "latents/rejects"),
}

NUM_SHARDS = "num_shards"
"""Option of select that only growth changes."""


class GenerateSteps:
    """The steps of one run.

    Attributes:
        identities: Step name to what decides its result; only steps that are configured. The plan
            is no part of it: a plan only grows, and what is made stays as it is.
        tokenizer: Of the model's (first) text encoder.
    """

    def __init__(self, config: GenerateJobConfig, store: RunStore, plan: PromptPlan) -> None:
        self.config = config
        self.store = store
        self.plan = plan
        self.max_quarantined_shards = config.engine.max_quarantined_shards
        self.tokenizer = load_caption_tokenizer(first_text_encoder(config.generate.model))
        self.identities: dict[str, StepIdentity] = {}
        for step in self.configured():
            parents = [self.identities[name].fingerprint for name in self.parents(step)]
            self.identities[step] = StepIdentity(
                step=step,
                options=redact_config(self._options(step)),
                parents=tuple(parents),
            )

    def configured(self) -> list[str]:
        """The steps that the configuration asks for, in order."""
        optional = {"score": self.config.score, "encode": self.config.generate.latents}
        return [step for step in _FOLDERS if optional.get(step, self.config) is not None]

    def parents(self, step: str) -> Sequence[str]:
        """The steps whose results this one reads."""
        parents = {
            "generate": [],
            "score": ["generate"],
            "select": ["generate", "score"],
            "encode": ["generate", "select"],
        }
        return [parent for parent in parents[step] if parent in self.configured()]

    def folders(self, step: str) -> Iterable[str]:
        """The folders that the step writes."""
        return _FOLDERS[step]

    def num_shards(self, step: str) -> int:
        """Every step has the plan's shards."""
        return self.plan.num_shards

    def publish(self, step: str) -> None:
        """The cache's own files, when it is complete."""
        if step == "encode":
            publish_cache(self.store, fingerprint=self._fingerprint("encode"))

    @cached_property
    def public_config(self) -> dict[str, Any]:
        """The resolved configuration for run.json, without secrets."""
        return redact_config(self.config.model_dump(mode="json"))

    @property
    def models(self) -> dict[str, Any]:
        """What run.json says of the models, random weights included."""
        models: dict[str, Any] = {"generate": self.config.generate.model.describe()}
        if self.config.score is not None:
            models["score"] = self.config.score.describe_models()
        return models

    def shard_step(self, step: str, resources: Resources) -> ShardStep:
        """The step as the engine runs it."""
        if step == "generate":
            return GenerateStep(
                self.store,
                self.plan,
                fingerprint=self._fingerprint("generate"),
                config=self.config.generate,
                caption_facts=self.config.caption_facts,
                torch_threads=self.config.engine.torch_threads,
                resources=resources,
            )
        if step == "score":
            assert self.config.score is not None
            return ScoreStep(
                self.store,
                fingerprint=self._fingerprint("score"),
                download=self._fingerprint("generate"),
                origin="generate",
                config=self.config.score,
                options_digest=self.identities["score"].options_digest,
                torch_threads=self.config.engine.torch_threads,
                resources=resources,
            )
        return StoredLatentsStep(
            self.store,
            fingerprint=self._fingerprint("encode"),
            generate=self._fingerprint("generate"),
            select=self._fingerprint("select"),
            folder=LATENTS_FOLDER,
            resources=resources,
        )

    def select(self) -> Select:
        """The select step, which the driver itself runs."""
        return Select(
            store=self.store,
            fingerprint=self._fingerprint("select"),
            config=self.config.select,
            num_shards=self.plan.num_shards,
            download=self._fingerprint("generate"),
            origin="generate",
            score=self._fingerprint("score") if "score" in self.identities else None,
            further=further_scores(self.config.score),
            read_rows=self._read_rows,
            token_counter=self.tokenizer,
            cache_size=self._cache_size(),
        )

    def _cache_size(self) -> int | None:
        """The side of the images whose latents generate stores: the model's own."""
        if self.config.generate.latents is None:
            return None
        try:
            spec, _ = read_recorded(
                self.store, step="generate", fingerprint=self._fingerprint("generate")
            )
        except ShardError:  # no worker ever loaded the model, so there is no image either
            return None
        return spec.resolution_px

    def has_only_grown(self) -> bool:
        """Whether select is as run.json has it but for the number of shards."""
        recorded = read_run(self.store).get("steps", {}).get("select")
        if recorded is None:
            return False
        now = dict(self.identities["select"].options)
        before = dict(recorded["options"])
        if TOKENS_OPTION not in before:  # of a run made before captions were counted
            now.pop(TOKENS_OPTION, None)
        is_grown = now.pop(NUM_SHARDS, 0) >= before.pop(NUM_SHARDS, 0)
        return is_grown and not describe_changes(before, now)

    def _read_rows(self, shard_id: int) -> pa.Table:
        """Rows of a shard that was given up, as select records them."""
        rows = expand_rows(read_prompts(self.plan, self.store, shard_id), shard_id=shard_id)
        return rows.rename_columns(
            ["caption" if name == "prompt" else name for name in rows.column_names]
        )

    def _fingerprint(self, step: str) -> str:
        return self.identities[step].fingerprint

    def _options(self, step: str) -> dict[str, Any]:
        config = self.config
        threads = {"torch_threads": config.engine.torch_threads}
        if step == "generate":
            facts = config.caption_facts.identity()
            return {"generate": config.generate.identity(), **threads, **facts}
        if step == "score":
            assert config.score is not None
            return {"score": config.score.identity(), **threads}
        if step == "select":
            files = input_digests(config.select, config.storage_options)
            # Of a plan that grows, old shards keep their verdicts only where those cannot change.
            shards = self.plan.num_shards if config.select.weighs_later_rows else 0
            return {
                "select": config.select.identity(),
                **({"files": files} if files else {}),
                **({NUM_SHARDS: shards} if shards else {}),
                **token_identity(self.tokenizer),
            }
        return {}
