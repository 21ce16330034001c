"""What curate and generate are both told: where the run lies, and the steps that they share."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.engine.config import EngineConfig
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig
from pipelines.workflows.checks import check_scores_are_made
from sd_core.model.weights import WeightsNeed


class ModelSection(Protocol):
    """The section of a step that loads models."""

    def weight_needs(self, where: str) -> list[WeightsNeed]: ...

    def describe_models(self) -> dict[str, Any]: ...


class JobConfig(Config):
    """The sections that every job of committed steps has."""

    origin: ClassVar[str]
    """The step that makes the run's images."""

    output: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""
    caption_facts: CaptionFactsConfig = CaptionFactsConfig()
    """What is measured on the captions, or on the prompts."""
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

    def optional_steps(self) -> Mapping[str, object | None]:
        """The section of each step that may be left out; None where it is."""
        raise NotImplementedError

    def model_sections(self) -> Mapping[str, ModelSection | None]:
        """The section of each step that loads models; None where it is left out."""
        raise NotImplementedError

    def steps_left_out(self) -> set[str]:
        """The steps that are not configured."""
        return {name for name, section in self.optional_steps().items() if section is None}

    def weight_needs(self) -> list[WeightsNeed]:
        """What `check_weights` must find, of every model."""
        sections = self.model_sections().items()
        return [need for name, part in sections if part for need in part.weight_needs(name)]

    def describe_models(self) -> dict[str, Any]:
        """What run.json says of the models, random weights included."""
        sections = self.model_sections().items()
        return {name: part.describe_models() for name, part in sections if part}
