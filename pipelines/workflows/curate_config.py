"""Everything `jobs/curate.py` can be told; one section for each part of the job."""

from typing import Self

from pydantic import model_validator

from pipelines.plan import PlanConfig
from pipelines.rules.block_lists import BlockConfig
from pipelines.rules.list_rules import RulesConfig
from pipelines.sources import SourceConfig
from pipelines.steps.download.config import DownloadConfig
from pipelines.steps.download.image_config import ImageConfig
from pipelines.steps.encode import EncodeConfig
from pipelines.workflows.job_config import JobConfig, ModelSection


class CurateConfig(JobConfig):
    """Everything `jobs/curate.py` can be told; one section for each part of the job."""

    origin = "download"

    source: SourceConfig
    plan: PlanConfig = PlanConfig()
    rules: RulesConfig = RulesConfig()
    block: BlockConfig = BlockConfig()
    download: DownloadConfig = DownloadConfig()
    image: ImageConfig = ImageConfig()
    encode: EncodeConfig | None = None
    """Null: no latent cache."""

    @model_validator(mode="after")
    def _latents_have_whole_sizes(self) -> Self:
        if self.encode is not None and self.image.size % 4:
            raise ValueError(
                f"image.size: {self.image.size} has no latent of a whole size; give a multiple of "
                "the autoencoder's down-sampling (8 for Stable Diffusion's)"
            )
        return self

    def optional_steps(self) -> dict[str, object | None]:
        """The section of each step that may be left out; None where it is."""
        return {"score": self.score, "encode": self.encode}

    def model_sections(self) -> dict[str, ModelSection | None]:
        """The section of each step that loads models; None where it is left out."""
        return {"score": self.score, "encode": self.encode}
