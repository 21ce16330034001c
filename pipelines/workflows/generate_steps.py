"""From a generation's configuration to its steps: what is generate's own."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.prompts import PromptPlan, read_left_rows
from pipelines.rules.tombstones import read_tombstones
from pipelines.run.amendments import Amendments
from pipelines.run.cache_files import LATENTS_FOLDER, read_recorded
from pipelines.run.manifest import ShardError
from pipelines.run.option_changes import describe_changes
from pipelines.run.record import read_run
from pipelines.run.store import RunStore
from pipelines.steps.encode import StoredLatentsStep
from pipelines.steps.generate import GenerateStep
from pipelines.steps.select.tokens import TOKENS_OPTION
from pipelines.steps.step import Resources, ShardStep
from pipelines.workflows.generate_config import GenerateJobConfig
from pipelines.workflows.run_steps import RunSteps
from sd_core.model.caption_tokenizer import CaptionTokenizer, load_caption_tokenizer
from sd_core.model.latent_diffusion_config import first_text_encoder

NUM_SHARDS = "num_shards"
"""Option of select that only growth changes."""


class GenerateSteps(RunSteps):
    """The steps of one generation.

    The plan is no part of their identities: it only grows, and what is made stays as it is.
    """

    config: GenerateJobConfig
    plan: PromptPlan

    def __init__(
        self,
        config: GenerateJobConfig,
        store: RunStore,
        plan: PromptPlan,
        *,
        amendments: Amendments | None = None,
    ) -> None:
        self._tokenizer = load_caption_tokenizer(first_text_encoder(config.generate.model))
        super().__init__(config, store, plan, amendments=amendments)

    @property
    def token_counter(self) -> CaptionTokenizer:
        """Of the model's (first) text encoder."""
        return self._tokenizer

    @property
    def cache_sizes(self) -> Sequence[tuple[int, int]]:
        """Of the images whose latents generate stores: the model's own, where none are named."""
        if self.config.generate.latents is None:
            return ()
        try:
            spec, _ = read_recorded(self.committed("generate"))
        except ShardError:  # no worker ever loaded the model, so there is no image either
            return ()
        return spec.sizes

    def own_step(self, step: str, resources: Resources) -> ShardStep:
        if step == "generate":
            return GenerateStep(
                self.store,
                self.plan,
                fingerprint=self.identities["generate"].fingerprint,
                config=self.config.generate,
                caption_facts=self.config.caption_facts,
                torch_threads=self.config.engine.torch_threads,
                resources=resources,
            )
        return StoredLatentsStep(
            self.store,
            fingerprint=self.identities["encode"].fingerprint,
            images=self.committed("generate"),
            verdicts=self.committed("select"),
            folder=LATENTS_FOLDER,
            resources=resources,
        )

    def has_only_grown(self, *, is_asked: bool) -> bool:
        """Whether select is as run.json has it but for the number of shards.

        Args:
            is_asked: Else that has to be larger, as where a growth was killed.
        """
        recorded = read_run(self.store).get("steps", {}).get("select")
        if recorded is None:
            return False
        now = dict(self.identities["select"].options)
        before = dict(recorded["options"])
        if TOKENS_OPTION not in before:  # of a run made before captions were counted
            now.pop(TOKENS_OPTION, None)
        more = now.pop(NUM_SHARDS, 0) - before.pop(NUM_SHARDS, 0)
        is_grown = more > 0 or (is_asked and not more)
        return is_grown and not describe_changes(before, now)

    def read_rows(self, shard_id: int) -> pa.Table:
        rows = read_left_rows(self.plan, self.store, shard_id, read_tombstones(self.store))
        return rows.rename_columns(
            ["caption" if name == "prompt" else name for name in rows.column_names]
        )

    def options(self, step: str) -> dict[str, Any]:
        config = self.config
        if step == "generate":
            facts = config.caption_facts.identity()
            return {"generate": config.generate.identity(), **self.threads(), **facts}
        if step == "select":
            # Of a plan that grows, old shards keep their verdicts only where those cannot change.
            shards = self.plan.num_shards if config.select.weighs_later_rows else 0
            return {**self.select_options(), **({NUM_SHARDS: shards} if shards else {})}
        return {}
