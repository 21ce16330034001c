"""Generate: prompts into images, their metadata and their latents."""

from pipelines.steps.generate.config import GenerateConfig
from pipelines.steps.generate.step import GenerateStep

__all__ = ["GenerateConfig", "GenerateStep"]
