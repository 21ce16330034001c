"""Generate: prompts into images, their metadata and their latents."""

from pipelines.steps.generate.config import GenerateConfig
from pipelines.steps.generate.image_spool import LATENTS_FOLDER
from pipelines.steps.generate.step import GenerateStep

__all__ = ["LATENTS_FOLDER", "GenerateConfig", "GenerateStep"]
