"""Everything `jobs/generate.py` can be told; one section for each part of the job."""

from typing import Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.engine.config import EngineConfig
from pipelines.prompts import (
    PromptPlanConfig,
    PromptsConfig,
)
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.steps.generate import GenerateConfig
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig
from pipelines.workflows.checks import check_scores_are_made


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
