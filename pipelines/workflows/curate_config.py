"""Everything `jobs/curate.py` can be told; one section for each part of the job."""

from typing import Self

from pydantic import Field, model_validator

from pipelines.config import Config
from pipelines.engine.config import EngineConfig
from pipelines.plan import PlanConfig
from pipelines.rows.caption_facts import CaptionFactsConfig
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.list_rules import RulesConfig
from pipelines.sources import SourceConfig
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.encode import EncodeConfig
from pipelines.steps.score import ScoreConfig
from pipelines.steps.select import SelectConfig
from pipelines.workflows.checks import check_scores_are_made


class CurateConfig(Config):
    """Everything `jobs/curate.py` can be told; one section for each part of the job."""

    output: str = Field(min_length=1)
    """The run's folder: an absolute path or an fsspec URL."""
    source: SourceConfig
    plan: PlanConfig = PlanConfig()
    rules: RulesConfig = RulesConfig()
    block: BlockConfig = BlockConfig()
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

    @model_validator(mode="after")
    def _scores_are_made(self) -> Self:
        check_scores_are_made(self.select, self.score)
        return self
