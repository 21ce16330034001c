"""Encode: kept images into the latent cache."""

from pipelines.steps.encode.encode import EncodeConfig
from pipelines.steps.encode.step import EncodeStep
from pipelines.steps.encode.stored import StoredLatentsStep

__all__ = ["EncodeConfig", "EncodeStep", "StoredLatentsStep"]
