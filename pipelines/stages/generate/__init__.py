"""Generate: prompts into images, their metadata and their latents."""

from pipelines.stages.generate.config import GenerateConfig
from pipelines.stages.generate.image_spool import LATENTS_FOLDER
from pipelines.stages.generate.models import check_generation_model
from pipelines.stages.generate.step import GenerateStep

__all__ = ["LATENTS_FOLDER", "GenerateConfig", "GenerateStep", "check_generation_model"]
